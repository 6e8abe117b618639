/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A queue that moves to other rings with what is in flight.
 */
#include <errno.h>
#include <string.h>

#include "crc.h"
#include "driven.h"
#include "queue.h"

#define LEN 4096U

static struct driven d;

struct wanted {
    uint32_t op, flags, len;
    uint64_t offset;
    uint8_t buf[LEN];
};

static const uint32_t ops[] = {CBD_WRITE, CBD_READ, CBD_WRITE, CBD_FLUSH, CBD_DISCARD, CBD_READ, CBD_WRITE_ZEROES, CBD_WRITE};
_Static_assert(sizeof(ops) / sizeof(ops[0]) == DEPTH, "one for each tag");

static void submit_mix(struct wanted *w, uint32_t n, uint64_t *state)
{
    for (uint32_t i = 0; i < n; i++) {
        bool flush = ops[i] == CBD_FLUSH;

        w[i] = (struct wanted){.op = ops[i],
                               .flags = i % 2 == 0 && cbd_op_may_fua(ops[i]) ? CBD_FUA : 0,
                               .len = flush ? 0 : LEN - 512 * (i % 3),
                               .offset = flush ? 0 : 8192 * i};
        if (ops[i] == CBD_WRITE)
            fill_random(w[i].buf, LEN, state);
        CHECK_EQ(cbd_queue_submit(d.queue, w[i].op, w[i].flags, w[i].offset, w[i].len, w[i].buf, i), 0);
    }
}

static void check_sent_again(const struct hand *hand, const struct cbd_slot *s, const struct wanted *w, uint64_t number)
{
    uint8_t got[LEN];

    CHECK_EQ(s->tid, number);
    CHECK_EQ(s->op, w->op);
    CHECK_EQ(s->flags, (w->flags & CBD_FUA ? CBD_SLOT_FUA : 0) | (w->op == CBD_WRITE ? CBD_SLOT_DATA_CRC : 0));
    CHECK_EQ(s->offset, w->offset);
    CHECK_EQ(s->len, w->len);
    CHECK_EQ(s->credit, 0);
    CHECK_EQ(s->data_len, w->op == CBD_WRITE ? w->len : 0);
    if (w->op != CBD_WRITE)
        return;
    ring_get_payload(&hand->ch.map, hand->ch.requests + s->data_off, got, s->len);
    CHECK_EQ(memcmp(got, w->buf, s->len), 0);
    CHECK_EQ(s->data_crc, cxl_crc32c(0, w->buf, s->len));
}

static void test_sent_again(void)
{
    static struct wanted w[DEPTH];
    struct cbd_slot s[DEPTH];
    struct hand old, fresh;
    uint64_t state = 3;

    TEST("what is in flight is sent again in its order, whatever the number, and its answers arrive");
    for (uint32_t n = 0; n <= DEPTH; n++) {
        struct cbd_channel_conf conf;

        start_queue(&d, &old);
        use_ring(&d, &old);
        submit_mix(w, n, &state);
        conf = fresh_rings(&d, n % CHANNELS, &fresh); /* the same channel with another epoch, too */
        CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
        CHECK_EQ(cbd_queue_in_flight(d.queue), n);
        for (uint32_t i = 0; i < n; i++) {
            hand_consume(&fresh.submissions, &s[i]);
            check_sent_again(&fresh, &s[i], &w[i], i + 1);
        }
        CHECK(nothing_submitted(&fresh));
        CHECK_EQ(poll_one(&d, &(struct cbd_completion){0}), 0);
        for (uint32_t i = n; i-- > 0;) {
            answer(&d, &fresh, &s[i]);
            expect(&d, i, 0);
            if (w[i].op == CBD_READ)
                CHECK_EQ(memcmp(w[i].buf, d.payload, w[i].len), 0);
        }
        CHECK_EQ(cbd_queue_in_flight(d.queue), 0);
        use_ring(&d, &fresh);
        CHECK_EQ(bad_slots(&d), 0);
    }
}

static void test_late_completions(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_slot before[DEPTH], s, spoiled;
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct hand old, fresh;

    TEST("completions of rings that were left are not believed, wherever they are written");
    start_queue(&d, &old);
    use_ring(&d, &old);
    memset(bufs, 0, sizeof(bufs));
    for (uint32_t i = 0; i < DEPTH; i++) {
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 8192 * i, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &before[i]);
    }
    answer(&d, &old, &before[0]); /* it is there already, but nobody has looked */
    conf = fresh_rings(&d, 1, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    for (uint32_t i = 1; i < DEPTH; i++)
        answer(&d, &old, &before[i]);
    CHECK_EQ(poll_one(&d, &done), 0);
    for (uint32_t i = 0; i < DEPTH; i++) { /* the new backend is told the old numbers */
        spoiled = answer_to(&d, &fresh, &before[i]);
        ring_produce(&fresh.completions, &spoiled);
    }
    CHECK_EQ(poll_one(&d, &done), 0);
    CHECK_EQ(bad_slots(&d), DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++) {
        for (uint32_t b = 0; b < LEN; b++)
            CHECK_EQ(bufs[i][b], 0);
    }

    TEST("nor when the queue comes back to the channel where they lie");
    conf = fresh_rings(&d, 0, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    CHECK_EQ(poll_one(&d, &done), 0);
    CHECK_EQ(bad_slots(&d), DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++) {
        hand_consume(&fresh.submissions, &s);
        answer(&d, &fresh, &s);
        expect(&d, i, 0);
        CHECK_EQ(memcmp(bufs[i], d.payload, LEN), 0);
    }
}

static void test_refused(void)
{
    struct cbd_channel_conf good, bad;
    struct hand old, fresh;
    struct cbd_slot s;
    uint8_t buf[LEN];

    TEST("other shapes, places outside, and the rings in use are refused, and nothing changes");
    start_queue(&d, &old);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, buf, 5), 0);
    hand_consume(&old.submissions, &s);
    good = fresh_rings(&d, 1, &fresh);
#define BAD(field, value, error) \
    bad = good; \
    bad.field = (value); \
    CHECK_EQ(cbd_queue_check_rebind(d.queue, &bad), error); \
    CHECK_EQ(cbd_queue_rebind(d.queue, &bad), error)
    BAD(ring_depth, DEPTH / 2, -EINVAL);
    BAD(ring_depth, DEPTH * 2, -EINVAL);
    BAD(slot_bytes, SLOT_BYTES / 2, -EINVAL);
    BAD(slot_bytes, 1U << 20, -EINVAL);
    BAD(features, 0, -EINVAL);
    BAD(channel_off, 64, -EINVAL);
    BAD(channel_off, d.f.channel_bytes + CBD_PAGE, -ERANGE);
    BAD(channel_off, UINT64_MAX & ~4095ULL, -ERANGE);
    CHECK_EQ(cbd_queue_rebind(d.queue, NULL), -EINVAL);
    bad = d.f.conf[0];
    bad.epoch = d.epoch - 1;
    CHECK_EQ(cbd_queue_rebind(d.queue, &bad), -EINVAL);
    CHECK(nothing_submitted(&fresh));
    answer(&d, &old, &s);
    expect(&d, 5, 0);
    CHECK_EQ(memcmp(buf, d.payload, LEN), 0);
    CHECK_EQ(cbd_queue_check_rebind(d.queue, &good), 0);
}

static void test_abandoned(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_channel_conf conf;
    struct hand old, fresh;
    struct cbd_slot s;

    TEST("abandoned requests end with the rings that they were sent on, and give their tags back");
    start_queue(&d, &old);
    use_ring(&d, &old);
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_WRITE, 0, 8192 * i, LEN, bufs[i], i), 0);
    for (uint32_t i = 0; i < DEPTH; i += 2)
        cbd_queue_abandon(d.queue, i);
    CHECK_EQ(cbd_queue_in_flight(d.queue), DEPTH);
    conf = fresh_rings(&d, 1, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    CHECK_EQ(cbd_queue_in_flight(d.queue), DEPTH / 2);
    for (uint32_t i = 0; i < DEPTH; i += 2)
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 8192 * i, LEN, bufs[i], 100 + i), 0);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EAGAIN);
    for (uint32_t i = 1; i < DEPTH; i += 2) {
        hand_consume(&fresh.submissions, &s);
        CHECK_EQ(s.offset, 8192 * i);
        answer(&d, &fresh, &s);
        expect(&d, i, 0);
    }
    for (uint32_t i = 0; i < DEPTH; i += 2) {
        hand_consume(&fresh.submissions, &s);
        CHECK_EQ(s.op, CBD_READ);
        answer(&d, &fresh, &s);
        expect(&d, 100 + i, 0);
    }
    use_ring(&d, &fresh);
}

static void test_lost_completion(void)
{
    uint8_t bufs[2][LEN];
    struct cbd_completion done;
    struct cbd_slot s[2], torn;
    struct cbd_channel_conf conf;
    struct hand old, fresh;

    TEST("completions that were lost on the old rings do not count on the new ones");
    start_queue(&d, &old);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &s[i]);
    }
    torn = answer_to(&d, &old, &s[0]);
    hand_produce_torn(&old.completions, &torn);
    while (!bad_slots(&d))
        CHECK_EQ(poll_one(&d, &done), 0);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 2), -EAGAIN);
    conf = fresh_rings(&d, 1, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 2), 0);
    for (uint32_t i = 0; i < 3; i++) {
        hand_consume(&fresh.submissions, &s[0]);
        answer(&d, &fresh, &s[0]);
        expect(&d, i, 0);
    }
}

static void test_torn_half_way(void)
{
    uint8_t bufs[2][LEN];
    struct cbd_completion done;
    struct cbd_slot s;
    struct cbd_channel_conf conf;
    struct hand old, fresh;

    TEST("a slot that was being read again and again on the old rings is forgotten");
    start_queue(&d, &old);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, bufs[0], 0), 0);
    hand_consume(&old.submissions, &s);
    s = answer_to(&d, &old, &s);
    hand_produce_torn(&old.completions, &s);
    CHECK_EQ(poll_one(&d, &done), 0);
    conf = fresh_rings(&d, 1, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    hand_consume(&fresh.submissions, &s);
    s = answer_to(&d, &fresh, &s);
    hand_produce_torn(&fresh.completions, &s);
    for (uint32_t i = 0; i < RING_REREADS_MAX / RING_REREADS_PER_CALL - 1; i++)
        CHECK_EQ(poll_one(&d, &done), 0);
    expect(&d, 0, -EIO);
}

static void test_held(void)
{
    uint8_t buf[LEN] = {0};
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct hand old, fresh;
    struct cbd_slot s;

    TEST("a queue that is held touches no rings, and forgets nothing");
    start_queue(&d, &old);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_READ, 0, 0, LEN, buf, 1), 0);
    hand_consume(&old.submissions, &s);
    cbd_queue_hold(d.queue);
    CHECK_EQ(cbd_queue_submit(d.queue, CBD_FLUSH, 0, 0, 0, NULL, 2), -EAGAIN);
    CHECK(nothing_submitted(&old));
    answer(&d, &old, &s);
    CHECK_EQ(poll_one(&d, &done), 0);
    CHECK_EQ(cbd_queue_in_flight(d.queue), 1);
    conf = fresh_rings(&d, 1, &fresh);
    CHECK_EQ(cbd_queue_rebind(d.queue, &conf), 0);
    hand_consume(&fresh.submissions, &s);
    answer(&d, &fresh, &s);
    expect(&d, 1, 0);
    CHECK_EQ(memcmp(buf, d.payload, LEN), 0);
    use_ring(&d, &fresh);
}

int main(void)
{
    for (int mode = 0; mode < 2; mode++) {
        printf("%s memory\n", mode ? "incoherent" : "coherent");
        driven_start(&d, mode ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE);
        test_sent_again();
        test_late_completions();
        test_refused();
        test_abandoned();
        test_lost_completion();
        test_torn_half_way();
        test_held();
        driven_stop(&d);
    }
    return 0;
}
