/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Queue and backend with each other, over a mapping and a real file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"

#define HALF (CAPACITY / CHANNELS)
#define LARGE (CAPACITY / DEPTH)
#define RANDOM_IOS 3000U

static struct fixture f;

static void check_file(uint64_t offset, const void *want, uint32_t len)
{
    uint8_t *got = malloc(len);

    CHECK(got);
    CHECK_EQ(pread(f.fd, got, len, (off_t)offset), len);
    CHECK_EQ(memcmp(got, want, len), 0);
    free(got);
}

static void test_ops(void)
{
    static uint8_t data[SLOT_BYTES], back[SLOT_BYTES], zeroes[SLOT_BYTES];
    uint64_t state = 11;

    TEST("every operation");
    fill_random(data, sizeof(data), &state);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, CAPACITY - SLOT_BYTES, SLOT_BYTES, data), 0);
    check_file(CAPACITY - SLOT_BYTES, data, SLOT_BYTES);
    CHECK_EQ(do_io(&f, CBD_READ, 0, CAPACITY - SLOT_BYTES, SLOT_BYTES, back), 0);
    CHECK_EQ(memcmp(data, back, sizeof(data)), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, CBD_FUA, 512, 1024, data), 0);
    check_file(512, data, 1024);
    CHECK_EQ(do_io(&f, CBD_FLUSH, 0, 0, 0, NULL), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, CBD_FUA, 512, 512, NULL), 0);
    check_file(512, zeroes, 512);
    check_file(1024, data + 512, 512);
    CHECK_EQ(do_io(&f, CBD_DISCARD, 0, CAPACITY - SLOT_BYTES, SLOT_BYTES, NULL), 0);
    CHECK_EQ(do_io(&f, CBD_READ, 0, CAPACITY - SLOT_BYTES, SLOT_BYTES, back), 0);
    CHECK_EQ(memcmp(zeroes, back, sizeof(zeroes)), 0);

    TEST("operations without payload may be longer than a slot");
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, SLOT_BYTES, data), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 0, CAPACITY, NULL), 0);
    check_file(0, zeroes, SLOT_BYTES);
    CHECK_EQ(do_io(&f, CBD_DISCARD, 0, 0, CAPACITY, NULL), 0);

    TEST("the backend refuses what is beyond the end or not aligned");
    CHECK_EQ(do_io(&f, CBD_READ, 0, CAPACITY, 512, back), -EINVAL);
    CHECK_EQ(do_io(&f, CBD_READ, 0, CAPACITY - 512, 1024, back), -EINVAL);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 256, 512, data), -EINVAL);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 100, data), -EINVAL);
    CHECK_EQ(do_io(&f, CBD_DISCARD, 0, 512, CAPACITY, NULL), -EINVAL);
}

static void test_arguments(void)
{
    uint8_t buf[512];

    TEST("the queue refuses bad arguments");
    CHECK_EQ(cbd_queue_submit(f.queue[0], 0, 0, 0, 512, buf, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], 6, 0, 0, 512, buf, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, 0, 0, 512, NULL, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, 0, 0, 0, buf, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, 0, 0, SLOT_BYTES + 512, buf, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, CBD_FUA, 0, 512, buf, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_WRITE, 2, 0, 512, buf, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_FLUSH, 0, 0, 512, NULL, 0), -EINVAL);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_DISCARD, 0, UINT64_MAX - 511, 512, NULL, 0), -EINVAL);
    CHECK_EQ(cbd_queue_in_flight(f.queue[0]), 0);
    CHECK_EQ(cbd_queue_wait(f.queue[0], &(struct cbd_completion){0}, 1, 1000), 0);
}

static void test_configuration(void)
{
    struct cbd_channel_conf good = f.conf[0], bad;
    struct cbd_backend_conf be = {.fd = f.fd, .logical_block_size = BLOCK, .capacity = CAPACITY};
    struct cbd_backend *out;
    struct cbd_queue *q;

    TEST("channels that do not fit are refused, by both ends");
#define BAD(field, value, error) \
    bad = good; \
    bad.field = (value); \
    CHECK_EQ(cbd_queue_new(&f.mem, &bad, &q), error)
    BAD(channel_off, 64, -EINVAL);
    BAD(channel_off, f.channel_bytes + CBD_PAGE, -ERANGE);
    BAD(channel_off, UINT64_MAX & ~4095ULL, -ERANGE);
    BAD(ring_depth, 0, -EINVAL);
    BAD(ring_depth, 1, -EINVAL);
    BAD(ring_depth, 12, -EINVAL);
    BAD(ring_depth, 2048, -EINVAL);
    BAD(slot_bytes, 0, -EINVAL);
    BAD(slot_bytes, 6000, -EINVAL);
    BAD(slot_bytes, 2U << 20, -EINVAL);
    BAD(slot_bytes, 1U << 20, -ERANGE);
    BAD(features, 2, -EINVAL);
    BAD(flags, 2, -EINVAL);
    BAD(fence_off, 1, -EINVAL);
    BAD(fence_off, 1ULL << 60, -ERANGE);
    CHECK_EQ(cbd_backend_add(f.backend, &bad), -EEXIST);
    bad.channel_off = 64;
    CHECK_EQ(cbd_backend_add(f.backend, &bad), -EINVAL);
    CHECK_EQ(cbd_backend_add(f.backend, &good), -EEXIST);
    CHECK_EQ(cbd_backend_remove(f.backend, 64), -ENOENT);

    TEST("backends that make no sense are refused");
    be.logical_block_size = 1000;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -EINVAL);
    be.logical_block_size = 4096;
    be.capacity = 4096 + 512;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -EINVAL);
    be.capacity = 4096;
    be.fd = -1;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -EINVAL);
    be.fd = f.fd;
    be.engine = CBD_ENGINE_INLINE + 1;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -EINVAL);
    be.engine = f.engine;
    be.fence_off = FENCE_OFF + 8;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -EINVAL);
    be.fence_off = f.mem.len;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -ERANGE);
    be.fence_off = UINT64_MAX - 63;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), -ERANGE);
    be.fence_off = f.mem.len - 64;
    be.idle.idle_cap_us = 2000000;
    CHECK_EQ(cbd_backend_new(&f.mem, &be, &out), 0);
    bad = good;
    CHECK_EQ(cbd_backend_add(out, &bad), -EINVAL);
    cbd_backend_free(out);
}

static void test_full(void)
{
    static uint8_t data[DEPTH][512];
    struct cbd_completion done[DEPTH];
    uint32_t n = 0;

    TEST("no more than ring_depth in flight");
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0);
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_WRITE, 0, i * 512, 512, data[i], i), 0);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_WRITE, 0, 0, 512, data[0], 99), -EAGAIN);
    CHECK_EQ(cbd_queue_in_flight(f.queue[0]), DEPTH);
    CHECK_EQ(cbd_queue_wait(f.queue[0], done, DEPTH, 2000), 0);

    TEST("a new epoch starts from nothing, and the requests of the old one stay unserved");
    f.conf[0].epoch++;
    cbd_queue_free(f.queue[0]);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[0], &f.queue[0]), 0);
    CHECK_EQ(cbd_backend_add(f.backend, &f.conf[0]), 0);
    memset(data, 0x55, sizeof(data));
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_WRITE, 0, i * 512, 512, data[i], i), 0);
    while (n < DEPTH) {
        int got = cbd_queue_wait(f.queue[0], done, DEPTH, WAIT_US);

        CHECK(got > 0);
        for (int i = 0; i < got; i++)
            CHECK_EQ(done[i].result, 0);
        n += (uint32_t)got;
    }
    check_file(0, data, sizeof(data));
}

/* ---- random verified I/O ---- */

struct worker {
    struct cbd_queue *queue;
    uint64_t first, state; /* of its half of the device */
    uint8_t *model;        /* what the half must hold */
};

struct slot_io {
    uint32_t op, len, off;
    uint8_t buf[SLOT_BYTES];
};

static void finish_one(struct worker *w, struct slot_io *ios, bool *busy)
{
    struct cbd_completion done;
    struct slot_io *io;

    CHECK_EQ(cbd_queue_wait(w->queue, &done, 1, WAIT_US), 1);
    CHECK_EQ(done.result, 0);
    CHECK(done.user < DEPTH && busy[done.user]);
    io = &ios[done.user];
    busy[done.user] = false;
    if (io->op == CBD_READ)
        CHECK_EQ(memcmp(io->buf, w->model + io->off, io->len), 0);
}

/* Requests in flight touch different eighths of the half, so that the model is exact. */
static void *random_io(void *arg)
{
    struct worker *w = arg;
    struct slot_io *ios = calloc(DEPTH, sizeof(*ios));
    bool busy[DEPTH] = {false};
    uint32_t part = HALF / DEPTH;

    CHECK(ios);
    for (uint32_t n = 0; n < RANDOM_IOS; n++) {
        uint32_t i = (uint32_t)(rng(&w->state) % DEPTH);
        struct slot_io *io = &ios[i];

        while (busy[i])
            finish_one(w, ios, busy);
        io->op = CBD_WRITE + (uint32_t)(rng(&w->state) % 5);
        io->len = io->op == CBD_FLUSH ? 0 : BLOCK * (1 + (uint32_t)(rng(&w->state) % (SLOT_BYTES / BLOCK)));
        io->off = io->op == CBD_FLUSH ? 0 : i * part + BLOCK * (uint32_t)(rng(&w->state) % ((part - io->len) / BLOCK + 1));
        if (io->op == CBD_WRITE) {
            fill_random(io->buf, io->len, &w->state);
            memcpy(w->model + io->off, io->buf, io->len);
        } else if (io->op != CBD_READ) {
            memset(w->model + io->off, 0, io->len);
        }
        CHECK_EQ(cbd_queue_submit(w->queue, io->op, 0, io->op == CBD_FLUSH ? 0 : w->first + io->off, io->len, io->buf, i), 0);
        busy[i] = true;
    }
    while (cbd_queue_in_flight(w->queue))
        finish_one(w, ios, busy);
    free(ios);
    return NULL;
}

static void test_random(void)
{
    struct worker workers[CHANNELS];
    pthread_t threads[CHANNELS];
    struct cbd_stats stats = {0};

    TEST("random verified I/O on two channels at once");
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 0, CAPACITY, NULL), 0);
    for (uint32_t i = 0; i < CHANNELS; i++) {
        workers[i] = (struct worker){.queue = f.queue[i], .first = i * HALF, .state = i + 1, .model = calloc(1, HALF)};
        CHECK(workers[i].model);
        CHECK_EQ(pthread_create(&threads[i], NULL, random_io, &workers[i]), 0);
    }
    for (uint32_t i = 0; i < CHANNELS; i++) {
        pthread_join(threads[i], NULL);
        check_file(i * HALF, workers[i].model, HALF);
        free(workers[i].model);
    }
    cbd_queue_stats(f.queue[1], &stats);
    CHECK_EQ(stats.requests, RANDOM_IOS);
    CHECK_EQ(stats.errors + stats.bad_slots + stats.crc_retries, 0);
    CHECK(stats.bytes_read && stats.bytes_written);
    CHECK_EQ(backend_stats(&f).crc_retries, 0);
}

static void test_stats_survive_removal(void)
{
    struct cbd_stats before = backend_stats(&f), after;

    TEST("counters outlive their handler");
    CHECK(before.requests > 0);
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[1].channel_off), 0);
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[1].channel_off), -ENOENT);
    after = backend_stats(&f);
    CHECK_EQ(memcmp(&before, &after, sizeof(before)), 0);
}

static void do_large(uint32_t op, uint8_t (*bufs)[LARGE])
{
    struct cbd_completion done;

    for (uint32_t i = 0; i < DEPTH - 1; i++)
        CHECK_EQ(cbd_queue_submit(f.queue[0], op, 0, (uint64_t)i * LARGE, LARGE - i * BLOCK, bufs[i], i), 0);
    for (uint32_t i = 0; i < DEPTH - 1; i++) {
        CHECK_EQ(cbd_queue_wait(f.queue[0], &done, 1, WAIT_US), 1);
        CHECK_EQ(done.result, 0);
    }
}

/* In pieces, where the backend sums while it reads. */
static void test_large(void)
{
    static uint8_t data[DEPTH - 1][LARGE], back[DEPTH - 1][LARGE];
    uint64_t state = 13;

    TEST("payloads of a hundred kilobytes and more, as many as fit");
    for (uint32_t i = 0; i < DEPTH - 1; i++)
        fill_random(data[i], LARGE, &state);
    do_large(CBD_WRITE, data);
    do_large(CBD_READ, back);
    for (uint32_t i = 0; i < DEPTH - 1; i++) {
        check_file((uint64_t)i * LARGE, data[i], LARGE - i * BLOCK);
        CHECK_EQ(memcmp(data[i], back[i], LARGE - i * BLOCK), 0);
    }
    CHECK_EQ(queue_stats(&f).crc_retries + backend_stats(&f).crc_retries, 0);
}

static void test_all(void)
{
    for (int mode = 0; mode < 4; mode++) {
        printf("%s memory, %s data CRC\n", mode & 1 ? "incoherent" : "coherent", mode & 2 ? "with" : "without");
        fixture_start(&f, mode & 1 ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE, mode & 2 ? CBD_FEATURE_DATA_CRC : 0);
        test_ops();
        test_arguments();
        test_configuration();
        test_full();
        test_random();
        test_stats_survive_removal();
        fixture_stop(&f);
        f.slot_bytes = LARGE;
        fixture_start(&f, mode & 1 ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE, mode & 2 ? CBD_FEATURE_DATA_CRC : 0);
        test_large();
        fixture_stop(&f);
        f.slot_bytes = 0;
    }
}

int main(void)
{
    FOR_EACH_ENGINE (engine) {
        SKIP_WITHOUT(engine);
        f.engine = engine;
        test_all();
    }
    return 0;
}
