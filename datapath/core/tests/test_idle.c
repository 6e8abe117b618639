/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Loops without work: how their sleeps grow, and that work finds them wherever they wait.
 */
#include "idle.h"

#include <errno.h>
#include <string.h>

#include "fixture.h"
#include "lookout.h"

#define PARKED_NS 100000000ULL /* by then a handler without work has left its waiting to the lookout */

static struct fixture f;

static void test_sleeps(enum idle_for what)
{
    struct cbd_idle_conf conf = {.spin_us = 1, .idle_cap_us = 400};
    struct idle idle;
    uint64_t slept = 0, sleep = 0;

    TEST(what == IDLE_FOR_WORK ? "sleeps for work" : "sleeps for an answer");
    CHECK_EQ(idle_init(&idle, what, &conf), 0);
    while (!idle_next(&idle))
        ;
    slept = idle.slept_ns;
    CHECK(slept > 0 && slept <= 10000);
    while (sleep < 400000) {
        sleep = idle_next(&idle);
        CHECK(sleep > 0 && sleep <= 400000);
        CHECK(sleep <= 10000 || sleep <= slept / what);
        slept += sleep;
    }
    CHECK_EQ(idle_next(&idle), 400000);
    idle_busy(&idle);
    CHECK_EQ(idle_next(&idle), 0); /* it spins again */
}

/* A spin of 200 ms, in which nothing comes; then something does. */
static uint64_t spin_after(uint64_t waited_ns)
{
    struct cbd_idle_conf conf = {.spin_us = 1000000};
    struct idle idle;

    CHECK_EQ(idle_init(&idle, IDLE_FOR_WORK, &conf), 0);
    idle.spin_ns = 200000000;
    while (!idle_next(&idle))
        ;
    idle.since_ns -= waited_ns;
    idle_busy(&idle);
    return idle.spin_ns;
}

static void test_tuning(void)
{
    TEST("what came soon makes spins longer although it came in a sleep, what came late makes them shorter");
    CHECK_EQ(spin_after(0), 400000000);
    CHECK_EQ(spin_after(10000000000), 125000000);
}

/* Whoever is woken up has nothing to win by a place at the end of the run queue: on a busy machine that costs milliseconds. */
static void test_bell(void)
{
    struct cbd_idle_conf conf = {.spin_us = 400000};
    struct idle idle;

    TEST("where somebody rings, a sleep follows the spin, and makes the next spin shorter however short it was");
    CHECK_EQ(idle_init(&idle, IDLE_FOR_BELL, &conf), 0);
    idle.spin_ns = 200000000;
    while (!idle_next(&idle))
        ;
    CHECK_EQ(idle.yields, 0);
    CHECK(idle.slept_ns > 0);
    idle_busy(&idle);
    CHECK_EQ(idle.spin_ns, 100000000);
    CHECK_EQ(idle_next(&idle), 0);
    idle_busy(&idle);
    CHECK_EQ(idle.spin_ns, 200000000);
}

static void test_limits(void)
{
    struct cbd_idle_conf conf = {.spin_us = 1000001};
    struct idle idle;

    TEST("no time above a second");
    CHECK_EQ(idle_init(&idle, IDLE_FOR_WORK, &conf), -EINVAL);
    conf = (struct cbd_idle_conf){.idle_cap_us = 1000001};
    CHECK_EQ(idle_init(&idle, IDLE_FOR_WORK, &conf), -EINVAL);
}

static void check_io(uint32_t queue)
{
    struct cbd_completion done;
    uint8_t data[BLOCK];

    CHECK_EQ(cbd_queue_submit(f.queue[queue], CBD_READ, 0, 0, BLOCK, data, 1), 0);
    CHECK_EQ(cbd_queue_wait(f.queue[queue], &done, 1, WAIT_US), 1);
    CHECK_EQ(done.result, 0);
}

/* Whoever looks out is called away first, then those that he looked out for. */
static void test_parked(enum cxl_coherence coherence)
{
    TEST(coherence == CXL_COHERENCE_SOFTWARE ? "many wait, incoherent memory" : "many wait");
    fixture_start(&f, coherence, CBD_FEATURE_DATA_CRC);
    for (uint32_t round = 0; round < 3; round++) {
        idle_sleep(PARKED_NS);
        for (uint32_t i = 0; i < CHANNELS; i++)
            check_io(i);
        idle_sleep(PARKED_NS);
        for (uint32_t i = CHANNELS; i-- > 0;)
            check_io(i);
    }

    TEST("one leaves while all wait; the others are looked out for as before");
    for (uint32_t i = 0; i + 1 < CHANNELS; i++) {
        idle_sleep(PARKED_NS);
        CHECK_EQ(cbd_backend_remove(f.backend, f.conf[i].channel_off), 0);
        idle_sleep(PARKED_NS);
        check_io(CHANNELS - 1);
    }
    CHECK_EQ(cbd_backend_add(f.backend, &(struct cbd_channel_conf){0}), -EINVAL);
    fixture_stop(&f);
}

/* What lies in the next slot from before this epoch is nothing, however well its number fits. */
static void test_peek(void)
{
    struct hand hand;
    struct cbd_slot slot = {.op = CBD_FLUSH};
    struct ring next;

    TEST("only the next slot of this epoch is news");
    f = (struct fixture){.fd = -1};
    fixture_memory(&f, CXL_COHERENCE_SOFTWARE, 0);
    hand_init(&hand, &f);
    next = hand.submissions;
    ring_peek_begin(&next);
    ring_peek_fence(&next);
    CHECK(!ring_peek(&next));
    ring_produce(&hand.submissions, &slot);
    CHECK(ring_peek(&next));
    next.epoch++;
    CHECK(!ring_peek(&next));
    next.epoch--;
    next.seq++;
    CHECK(!ring_peek(&next));
    fixture_stop(&f);
}

int main(void)
{
    test_sleeps(IDLE_FOR_WORK);
    test_sleeps(IDLE_FOR_ANSWER);
    test_tuning();
    test_bell();
    test_limits();
    test_peek();
    test_parked(CXL_COHERENCE_HARDWARE);
    test_parked(CXL_COHERENCE_SOFTWARE);
    return 0;
}
