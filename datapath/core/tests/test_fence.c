/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A host that was declared dead: whatever its handlers have taken, nothing is performed or answered any more.
 */
#define _GNU_SOURCE
#include "fence.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "crc.h"
#include "fixture.h"
#include "idle.h"

static struct fixture f;
static enum cbd_engine engine;
static uint8_t data[SLOT_BYTES], back[SLOT_BYTES];

static void store_line(uint64_t first, uint64_t second)
{
    struct mem_map map;

    CHECK_EQ(mem_map_init(&map, &f.mem), 0);
    mem_store64(&map, FENCE_OFF, first);
    mem_store64(&map, FENCE_OFF + 8, second);
}

static void test_line(enum cxl_coherence coherence)
{
    struct cbd_fence_line line = {.epoch = HOST_EPOCH};
    struct fence fence;

    TEST("the line");
    f = (struct fixture){.fd = -1};
    fixture_memory(&f, coherence, 0);
    CHECK_EQ(fence_init(&fence, &f.mem, FENCE_OFF, HOST_EPOCH), 0);
    CHECK(!fence_raised(&fence));
    raise_fence(&f, HOST_EPOCH - 1);
    CHECK(!fence_raised(&fence));
    raise_fence(&f, HOST_EPOCH);
    CHECK(fence_raised(&fence));
    raise_fence(&f, UINT64_MAX);
    CHECK(fence_raised(&fence));

    TEST("half a line says nothing");
    line.crc = cxl_crc32c(0, &line, offsetof(struct cbd_fence_line, crc));
    store_line(0, (uint64_t)line.crc << 32);
    CHECK(!fence_raised(&fence));
    store_line(HOST_EPOCH, 0);
    CHECK(!fence_raised(&fence));
    store_line(UINT64_MAX, UINT64_MAX);
    CHECK(!fence_raised(&fence));

    TEST("where it may lie");
    CHECK_EQ(fence_init(&fence, &f.mem, 0, HOST_EPOCH), 0); /* nowhere */
    CHECK(!fence_raised(&fence));
    CHECK_EQ(fence_init(&fence, &f.mem, f.mem.len - 64, HOST_EPOCH), 0);
    CHECK(!fence_raised(&fence));
    CHECK_EQ(fence_init(&fence, &f.mem, f.mem.len, HOST_EPOCH), -ERANGE);
    CHECK_EQ(fence_init(&fence, &f.mem, f.mem.len - 32, HOST_EPOCH), -EINVAL);
    fixture_stop(&f);
}

/* ---- handlers ---- */

static void start_on(int fd)
{
    f.engine = engine;
    fixture_memory(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_backend(&f, fd, 0);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[i], &f.queue[i]), 0);
}

static void start(void)
{
    f = (struct fixture){0};
    fixture_file(&f);
    start_on(f.fd);
}

static void submit(uint32_t queue, uint32_t op, uint32_t len, void *buf)
{
    CHECK_EQ(cbd_queue_submit(f.queue[queue], op, 0, 0, len, buf, 0), 0);
}

/* The handlers of the queues notice, end, and have answered nothing. */
static void check_silence(uint32_t queues)
{
    uint64_t start_ns = idle_now_ns();
    struct cbd_completion done;

    while (!cbd_backend_fenced(f.backend)) {
        CHECK(idle_now_ns() - start_ns < WAIT_US * 1000);
        idle_sleep(20000);
    }
    for (uint32_t i = 0; i < queues; i++) {
        CHECK_EQ(cbd_backend_remove(f.backend, f.conf[i].channel_off), 0);
        CHECK_EQ(cbd_queue_poll(f.queue[i], &done, 1), 0);
    }
    CHECK_EQ(cbd_backend_fenced(f.backend), 1); /* outlives the handler that found it */
}

static void check_unwritten(uint64_t offset)
{
    static const uint8_t zeroes[SLOT_BYTES];

    CHECK_EQ(pread(f.fd, back, SLOT_BYTES, (off_t)offset), SLOT_BYTES);
    CHECK_EQ(memcmp(back, zeroes, SLOT_BYTES), 0);
}

static void test_before(void)
{
    TEST("fenced before the first request");
    start();
    raise_fence(&f, HOST_EPOCH + 1);
    CHECK_EQ(cbd_backend_fenced(f.backend), 0); /* nobody had a reason to look */
    submit(0, CBD_WRITE, SLOT_BYTES, data);
    check_silence(1);
    check_unwritten(0);
    CHECK_EQ(backend_stats(&f).requests, 0);

    TEST("a handler that starts later, on a channel that is full of requests");
    f.conf[0].epoch++;
    cbd_queue_free(f.queue[0]);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[0], &f.queue[0]), 0);
    for (uint32_t i = 0; i < DEPTH; i++)
        submit(0, i % 2 ? CBD_WRITE : CBD_READ, SLOT_BYTES, i % 2 ? data : back);
    CHECK_EQ(cbd_backend_add(f.backend, &f.conf[0]), 0);
    check_silence(1);
    check_unwritten(0);
    CHECK_EQ(backend_stats(&f).requests, 0);
    fixture_stop(&f);
}

static void test_between(void)
{
    TEST("fenced between two requests, each handler for itself; earlier incarnations do not count");
    start();
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, SLOT_BYTES, SLOT_BYTES, data), 0);
    raise_fence(&f, HOST_EPOCH - 1);
    CHECK_EQ(do_io(&f, CBD_READ, 0, SLOT_BYTES, SLOT_BYTES, back), 0);
    CHECK_EQ(memcmp(back, data, SLOT_BYTES), 0);
    CHECK_EQ(cbd_backend_fenced(f.backend), 0);
    raise_fence(&f, HOST_EPOCH);
    submit(0, CBD_WRITE, SLOT_BYTES, data);
    submit(1, CBD_WRITE, SLOT_BYTES, data);
    check_silence(2);
    check_unwritten(0);
    CHECK_EQ(backend_stats(&f).requests, 2);
    fixture_stop(&f);
}

static void test_refusals(void)
{
    TEST("not even a refusal is answered");
    start();
    raise_fence(&f, HOST_EPOCH);
    submit(0, CBD_READ, 100, back);
    check_silence(1);
    fixture_stop(&f);
}

/* ---- requests in flight with io_uring: a pipe as the device, see test_engine.c ---- */

static void start_on_pipe(int ends[2], int side)
{
    CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
    CHECK_EQ(fcntl(ends[1], F_SETPIPE_SZ, 4096), 4096);
    f = (struct fixture){0};
    start_on(ends[side]);
}

static void stop_on_pipe(const int ends[2])
{
    fixture_stop(&f);
    close(ends[0]);
    close(ends[1]);
}

/* A flush of a pipe fails at once; its answer says that what was submitted before it has been taken. */
static void check_taken(void)
{
    struct cbd_completion done;

    submit(0, CBD_FLUSH, 0, NULL);
    CHECK_EQ(cbd_queue_wait(f.queue[0], &done, 1, WAIT_US), 1);
    CHECK_EQ(done.result, -EINVAL);
}

static void test_in_flight(void)
{
    int ends[2];

    TEST("requests in flight when the fence is found: they are called off");
    start_on_pipe(ends, 0);
    for (unsigned i = 0; i < 3; i++)
        submit(0, CBD_READ, 512, back);
    check_taken();
    raise_fence(&f, HOST_EPOCH);
    submit(0, CBD_FLUSH, 0, NULL);
    check_silence(1);
    CHECK_EQ(write(ends[1], data, 512), 512);
    CHECK_EQ(read(ends[0], back, 512), 512); /* nobody else wanted it */
    stop_on_pipe(ends);
}

/* By now the channel may be somebody else's. */
static void check_no_payload(void)
{
    struct channel ch;

    CHECK_EQ(channel_init(&ch, &f.mem, &f.conf[0]), 0);
    for (uint64_t i = 0; i < ch.data_bytes; i++)
        CHECK_EQ(f.mem.base[ch.responses + i], 0);
}

static void test_ended_in_flight(void)
{
    int ends[2];

    TEST("a request that ends behind the fence is not answered");
    start_on_pipe(ends, 0);
    submit(0, CBD_READ, 512, back);
    check_taken();
    raise_fence(&f, HOST_EPOCH);
    CHECK_EQ(write(ends[1], data, 512), 512);
    check_silence(1);
    check_no_payload();
    stop_on_pipe(ends);
}

/* The write waits for a full pipe; when there is room for its first half, the fence is up. */
static void test_continued(void)
{
    struct iovec one = {.iov_base = data, .iov_len = 1};
    int ends[2];

    TEST("a short write is not continued behind the fence");
    start_on_pipe(ends, 1);
    CHECK_EQ(write(ends[1], back, 4096), 4096);
    if (pwritev2(ends[1], &one, 1, -1, RWF_NOWAIT) < 0 && errno == EOPNOTSUPP) {
        printf("  not here: pipes of this kernel do not write in part\n");
        stop_on_pipe(ends);
        return;
    }
    submit(0, CBD_WRITE, 8192, data);
    check_taken();
    raise_fence(&f, HOST_EPOCH);
    CHECK_EQ(read(ends[0], back, 4096), 4096);
    check_silence(1);
    CHECK_EQ(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(read(ends[0], back, 8192), 4096);
    CHECK_EQ(memcmp(back, data, 4096), 0);
    CHECK_EQ(read(ends[0], back, 8192), -1);
    stop_on_pipe(ends);
}

static void test_queue(void)
{
    struct cbd_completion done;
    struct cbd_channel_conf conf;
    struct cbd_queue *q;

    TEST("a queue of a fenced host sends nothing more, and says so");
    fixture_start(&f, CXL_COHERENCE_SOFTWARE, 0);
    conf = f.conf[1];
    conf.fence_off = FENCE_OFF;
    conf.host_epoch = HOST_EPOCH + 1;
    CHECK_EQ(cbd_queue_new(&f.mem, &conf, &q), 0);
    raise_fence(&f, HOST_EPOCH - 1);
    CHECK_EQ(cbd_queue_submit(q, CBD_WRITE, 0, 0, 512, data, 0), 0);
    CHECK_EQ(cbd_queue_wait(q, &done, 1, WAIT_US), 1);
    CHECK_EQ(done.result, 0);
    raise_fence(&f, HOST_EPOCH + 1);
    CHECK_EQ(cbd_queue_submit(q, CBD_WRITE, 0, 0, 512, back, 0), -EIO);
    CHECK_EQ(cbd_queue_in_flight(q), 0);
    CHECK_EQ(cbd_queue_submit(q, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    cbd_queue_free(q);
    fixture_stop(&f);
}

int main(void)
{
    uint64_t state = 77;

    fill_random(data, sizeof(data), &state);
    test_line(CXL_COHERENCE_HARDWARE);
    test_line(CXL_COHERENCE_SOFTWARE);
    FOR_EACH_ENGINE (kind) {
        SKIP_WITHOUT(kind);
        engine = kind;
        test_before();
        test_between();
        test_refusals();
    }
    engine = CBD_ENGINE_URING;
    test_in_flight();
    test_ended_in_flight();
    test_continued();
    test_queue();
    return 0;
}
