/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A verifying load on a queue whose backend dies and comes back on other rings.
 */
#include <string.h>
#include <unistd.h>

#include "driven.h"

#define DEATHS 400U
#define PART (CAPACITY / DEPTH) /* of each request in flight, so that the model is exact */

struct io {
    uint32_t op, len, off;
    bool busy;
    uint8_t buf[SLOT_BYTES];
};

static struct driven d;
static struct io ios[DEPTH];
static uint8_t *model;

static void submit_random(uint64_t *state, uint32_t i)
{
    struct io *io = &ios[i];

    io->op = CBD_WRITE + (uint32_t)(rng(state) % 5);
    io->len = io->op == CBD_FLUSH ? 0 : BLOCK * (1 + (uint32_t)(rng(state) % (SLOT_BYTES / BLOCK)));
    io->off = io->op == CBD_FLUSH ? 0 : i * PART + BLOCK * (uint32_t)(rng(state) % ((PART - io->len) / BLOCK + 1));
    if (io->op == CBD_WRITE) {
        fill_random(io->buf, io->len, state);
        memcpy(model + io->off, io->buf, io->len);
    } else if (io->op != CBD_READ) {
        memset(model + io->off, 0, io->len);
    }
    CHECK_EQ(cbd_queue_submit(d.queue, io->op, 0, io->off, io->len, io->buf, i), 0);
    io->busy = true;
}

static void finish_some(void)
{
    struct cbd_completion done[3];
    int n = cbd_queue_wait(d.queue, done, 3, WAIT_US);

    CHECK(n > 0);
    for (int k = 0; k < n; k++) {
        struct io *io = &ios[done[k].user];

        CHECK(io->busy);
        CHECK_EQ(done[k].result, 0);
        io->busy = false;
        if (io->op == CBD_READ)
            CHECK_EQ(memcmp(io->buf, model + io->off, io->len), 0);
    }
}

static void load(uint64_t *state, uint32_t requests)
{
    while (requests--) {
        uint32_t i = (uint32_t)(rng(state) % DEPTH);

        while (ios[i].busy)
            finish_some();
        submit_random(state, i);
    }
}

static bool only_reads(void)
{
    for (uint32_t i = 0; i < DEPTH; i++) {
        if (ios[i].busy && ios[i].op != CBD_READ)
            return false;
    }
    return true;
}

/* What the backend does not see any more, but the rebind has to send. */
static void submit_into_the_void(uint64_t *state)
{
    for (uint32_t i = 0; i < DEPTH; i++) {
        if (!ios[i].busy && rng(state) % 2)
            submit_random(state, i);
    }
}

/* Now and then the old handler outlives the rebind, but only over reads: writes it would perform late, which only a fence
 * prevents. */
static void die_and_come_back(uint64_t *state, struct cbd_channel_conf *now)
{
    struct cbd_channel_conf next = d.f.conf[rng(state) % CHANNELS];
    bool linger = next.channel_off != now->channel_off && only_reads();

    next.epoch = ++d.epoch;
    if (!linger) {
        CHECK_EQ(cbd_backend_remove(d.f.backend, now->channel_off), 0);
        submit_into_the_void(state);
    }
    CHECK_EQ(cbd_backend_add(d.f.backend, &next), 0);
    CHECK_EQ(cbd_queue_rebind(d.queue, &next), 0);
    if (linger)
        CHECK_EQ(cbd_backend_remove(d.f.backend, now->channel_off), 0);
    *now = next;
}

static void test_load(void)
{
    uint64_t state = 17;
    struct cbd_channel_conf now = d.f.conf[0];
    struct cbd_stats stats;
    uint8_t *got = malloc(CAPACITY);

    TEST("a verifying load sees nothing of a backend that dies and comes back elsewhere");
    model = calloc(1, CAPACITY);
    CHECK(model && got);
    now.epoch = ++d.epoch;
    CHECK_EQ(cbd_queue_new(&d.f.mem, &now, &d.queue), 0);
    CHECK_EQ(cbd_backend_add(d.f.backend, &now), 0);
    for (uint32_t i = 0; i < DEATHS; i++) {
        load(&state, (uint32_t)(rng(&state) % 40));
        die_and_come_back(&state, &now);
    }
    while (cbd_queue_in_flight(d.queue))
        finish_some();
    CHECK_EQ(pread(d.f.fd, got, CAPACITY, 0), CAPACITY);
    CHECK_EQ(memcmp(got, model, CAPACITY), 0);
    cbd_queue_stats(d.queue, &stats);
    CHECK(stats.requests > DEATHS && stats.bytes_read && stats.bytes_written);
    CHECK_EQ(stats.errors + stats.bad_slots, 0);
    free(model);
    free(got);
}

int main(void)
{
    for (int mode = 0; mode < 2; mode++) {
        printf("%s memory\n", mode ? "incoherent" : "coherent");
        driven_start(&d, mode ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE);
        test_load();
        driven_stop(&d);
    }
    return 0;
}
