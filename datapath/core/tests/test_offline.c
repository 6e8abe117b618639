/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A queue that goes offline, and comes back by a rebind.
 */
#include <errno.h>
#include <string.h>

#include "driven.h"
#include "queue.h"

#define LEN 4096U

static struct driven d;

static void test_offline(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_slot before[DEPTH], s;
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct cbd_stats stats;
    struct hand old, fresh;

    TEST("offline: all in flight ends with the error, its buffers stay as they are, and nothing new starts");
    start_queue(&d, &old);
    use_ring(&d, &old);
    memset(bufs, 0, sizeof(bufs));
    for (uint32_t i = 0; i < DEPTH; i++) {
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &before[i]);
    }
    answer(&d, &old, &before[0]);
    cbd_queue_abandon(d.queue, 1);
    cbd_queue_set_offline(d.queue, -ENOLINK);
    CHECK_EQ(cbd_queue_in_flight(d.queue), DEPTH - 1);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -ENOLINK);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, NULL, 0), -EINVAL);
    for (uint32_t i = 1; i < DEPTH; i++)
        answer(&d, &old, &before[i]);
    for (uint32_t seen = 1 << 1, n = 0; n < DEPTH - 1; n++) {
        CHECK_EQ(cbd_queue_wait(d.queue, &done, 1, WAIT_US), 1);
        CHECK_EQ(done.result, -ENOLINK);
        CHECK(done.user < DEPTH && !(seen & 1U << done.user));
        seen |= 1U << done.user;
    }
    CHECK_EQ(cbd_queue_wait(d.queue, &done, 1, WAIT_US), 0);
    CHECK_EQ(cbd_queue_in_flight(d.queue), 0);
    for (uint32_t i = 0; i < DEPTH; i++) {
        for (uint32_t b = 0; b < LEN; b++)
            CHECK_EQ(bufs[i][b], 0);
    }
    cbd_queue_stats(d.queue, &stats);
    CHECK_EQ(stats.errors, DEPTH);

    TEST("offline again with another error, and with numbers that are none");
    cbd_queue_set_offline(d.queue, -ENODEV);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -ENODEV);
    cbd_queue_set_offline(d.queue, 0);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    cbd_queue_set_offline(d.queue, -EAGAIN); /* that is what a full queue says */
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    cbd_queue_set_offline(d.queue, INT32_MIN);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);

    TEST("a refused rebind leaves it offline, a good one ends it");
    conf = fresh_rings(&d, 1, &fresh);
    conf.slot_bytes /= 2;
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), -EINVAL);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    conf.slot_bytes *= 2;
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    CHECK(nothing_submitted(&fresh));
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, bufs[0], 9), 0);
    hand_consume(&fresh.submissions, &s);
    answer(&d, &fresh, &s);
    expect(&d, 9, 0);
    use_ring(&d, &fresh);
}

static void test_ended_stays_ended(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_slot before[4], s;
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct hand old, fresh;

    TEST("what ended offline is not revived by a rebind before it was reported");
    start_queue(&d, &old);
    memset(bufs, 0, sizeof(bufs));
    for (uint32_t i = 0; i < 4; i++) {
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &before[i]);
    }
    cbd_queue_set_offline(d.queue, -ENOLINK);
    CHECK_EQ(poll_one(&d, &done), 1);
    CHECK_EQ(done.user, 0);
    cbd_queue_abandon(d.queue, 3); /* nobody waits for its result any more */
    CHECK_EQ(cbd_queue_in_flight(d.queue), 2);
    conf = fresh_rings(&d, 1, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    CHECK(nothing_submitted(&fresh));
    for (uint32_t i = 4; i < DEPTH + 2; i++)
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, bufs[i % DEPTH], i), 0);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EAGAIN);
    answer(&d, &fresh, &before[1]); /* names what is not with the backend */
    expect(&d, 1, -ENOLINK);
    expect(&d, 2, -ENOLINK);
    CHECK_EQ(poll_one(&d, &done), 0);
    CHECK_EQ(bad_slots(&d), 1);
    for (uint32_t i = 4; i < DEPTH + 2; i++) {
        hand_consume(&fresh.submissions, &s);
        answer(&d, &fresh, &s);
        expect(&d, i, 0);
    }
    CHECK_EQ(bufs[2][0], 0);
    CHECK_EQ(cbd_queue_in_flight(d.queue), 0);
}

int main(void)
{
    for (int mode = 0; mode < 2; mode++) {
        printf("%s memory\n", mode ? "incoherent" : "coherent");
        driven_start(&d, mode ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE);
        test_offline();
        test_ended_stays_ended();
        driven_stop(&d);
    }
    return 0;
}
