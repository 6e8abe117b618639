/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A queue that moves to other rings or goes offline: against hand-driven rings, and against a backend that dies and comes back.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "crc.h"
#include "fixture.h"
#include "queue.h"

#define LEN 4096U
#define OLD_LAPS 3U /* of the ring, before it is left */
#define DEATHS 400U

static struct fixture f;
static struct cbd_queue *queue;
static uint8_t payload[SLOT_BYTES];
static uint32_t epoch; /* the highest in use; none is used twice */

/* Fresh rings on a channel, and their hand-driven end. */
static struct cbd_channel_conf fresh_rings(uint32_t channel, struct hand *hand)
{
    struct cbd_channel_conf conf = f.conf[channel];

    conf.epoch = ++epoch;
    CHECK_EQ(channel_init(&hand->ch, &f.mem, &conf), 0);
    ring_init(&hand->submissions, &hand->ch.map, hand->ch.submissions, DEPTH, conf.epoch);
    ring_init(&hand->completions, &hand->ch.map, hand->ch.completions, DEPTH, conf.epoch);
    return conf;
}

static void start_queue(struct hand *hand)
{
    struct cbd_channel_conf conf = fresh_rings(0, hand);

    cbd_queue_free(queue);
    CHECK_EQ(cbd_queue_new(&f.mem, &conf, &queue), 0);
}

static uint64_t bad_slots(void)
{
    struct cbd_stats stats;

    cbd_queue_stats(queue, &stats);
    return stats.bad_slots;
}

static int poll_one(struct cbd_completion *done)
{
    return cbd_queue_poll(queue, done, 1);
}

/* An honest answer, not yet sent; a read gets `payload`. */
static struct cbd_slot answer_to(struct hand *hand, const struct cbd_slot *s)
{
    struct cbd_slot done = {.op = s->op, .tag = s->tag, .tid = s->tid, .offset = s->offset, .len = s->len,
                            .credit = (uint32_t)hand->submissions.seq};

    if (s->op == CBD_READ) {
        done.flags = CBD_SLOT_DATA_CRC;
        done.data_off = s->tag * SLOT_BYTES;
        done.data_len = s->len;
        done.data_crc = cxl_crc32c(0, payload, s->len);
        ring_put_payload(&hand->ch.map, hand->ch.responses + done.data_off, payload, s->len);
    }
    return done;
}

static void answer(struct hand *hand, const struct cbd_slot *s)
{
    struct cbd_slot done = answer_to(hand, s);

    ring_produce(&hand->completions, &done);
}

static bool nothing_submitted(struct hand *hand)
{
    struct cbd_slot s;
    uint64_t rereads = 0;

    return ring_consume(&hand->submissions, &s, &rereads) == RING_EMPTY;
}

static void expect(uint64_t user, int32_t result)
{
    struct cbd_completion done;

    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.user, user);
    CHECK_EQ(done.result, result);
}

/* Requests that come and go, so that tags and numbers of what follows are neither in order nor small. */
static void use_ring(struct hand *hand)
{
    struct cbd_slot s[3];

    for (uint32_t i = 0; i < OLD_LAPS * DEPTH; i += 3) {
        for (uint32_t j = 0; j < 3; j++) {
            CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, j), 0);
            hand_consume(&hand->submissions, &s[j]);
        }
        for (uint32_t j = 0; j < 3; j++) { /* in an order of their own */
            answer(hand, &s[(j + i) % 3]);
            expect((j + i) % 3, 0);
        }
    }
}

/* ---- hand-driven ------------------------------------------------------------------------------------------------------ */

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
        CHECK_EQ(cbd_queue_submit(queue, w[i].op, w[i].flags, w[i].offset, w[i].len, w[i].buf, i), 0);
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

        start_queue(&old);
        use_ring(&old);
        submit_mix(w, n, &state);
        conf = fresh_rings(n % CHANNELS, &fresh); /* the same channel with another epoch, too */
        CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
        CHECK_EQ(cbd_queue_in_flight(queue), n);
        for (uint32_t i = 0; i < n; i++) {
            hand_consume(&fresh.submissions, &s[i]);
            check_sent_again(&fresh, &s[i], &w[i], i + 1);
        }
        CHECK(nothing_submitted(&fresh));
        CHECK_EQ(poll_one(&(struct cbd_completion){0}), 0);
        for (uint32_t i = n; i-- > 0;) {
            answer(&fresh, &s[i]);
            expect(i, 0);
            if (w[i].op == CBD_READ)
                CHECK_EQ(memcmp(w[i].buf, payload, w[i].len), 0);
        }
        CHECK_EQ(cbd_queue_in_flight(queue), 0);
        use_ring(&fresh);
        CHECK_EQ(bad_slots(), 0);
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
    start_queue(&old);
    use_ring(&old);
    memset(bufs, 0, sizeof(bufs));
    for (uint32_t i = 0; i < DEPTH; i++) {
        CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 8192 * i, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &before[i]);
    }
    answer(&old, &before[0]); /* it is there already, but nobody has looked */
    conf = fresh_rings(1, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    for (uint32_t i = 1; i < DEPTH; i++)
        answer(&old, &before[i]);
    CHECK_EQ(poll_one(&done), 0);
    for (uint32_t i = 0; i < DEPTH; i++) { /* the new backend is told the old numbers */
        spoiled = answer_to(&fresh, &before[i]);
        ring_produce(&fresh.completions, &spoiled);
    }
    CHECK_EQ(poll_one(&done), 0);
    CHECK_EQ(bad_slots(), DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++) {
        for (uint32_t b = 0; b < LEN; b++)
            CHECK_EQ(bufs[i][b], 0);
    }

    TEST("nor when the queue comes back to the channel where they lie");
    conf = fresh_rings(0, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    CHECK_EQ(poll_one(&done), 0);
    CHECK_EQ(bad_slots(), DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++) {
        hand_consume(&fresh.submissions, &s);
        answer(&fresh, &s);
        expect(i, 0);
        CHECK_EQ(memcmp(bufs[i], payload, LEN), 0);
    }
}

static void test_refused(void)
{
    struct cbd_channel_conf good, bad;
    struct hand old, fresh;
    struct cbd_slot s;
    uint8_t buf[LEN];

    TEST("other shapes, places outside, and the rings in use are refused, and nothing changes");
    start_queue(&old);
    CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, buf, 5), 0);
    hand_consume(&old.submissions, &s);
    good = fresh_rings(1, &fresh);
#define BAD(field, value, error) \
    bad = good; \
    bad.field = (value); \
    CHECK_EQ(cbd_queue_check_rebind(queue, &bad), error); \
    CHECK_EQ(cbd_queue_rebind(queue, &bad), error)
    BAD(ring_depth, DEPTH / 2, -EINVAL);
    BAD(ring_depth, DEPTH * 2, -EINVAL);
    BAD(slot_bytes, SLOT_BYTES / 2, -EINVAL);
    BAD(slot_bytes, 1U << 20, -EINVAL);
    BAD(features, 0, -EINVAL);
    BAD(channel_off, 64, -EINVAL);
    BAD(channel_off, f.channel_bytes + CBD_PAGE, -ERANGE);
    BAD(channel_off, UINT64_MAX & ~4095ULL, -ERANGE);
    CHECK_EQ(cbd_queue_rebind(queue, NULL), -EINVAL);
    bad = f.conf[0];
    bad.epoch = epoch - 1;
    CHECK_EQ(cbd_queue_rebind(queue, &bad), -EINVAL);
    CHECK(nothing_submitted(&fresh));
    answer(&old, &s);
    expect(5, 0);
    CHECK_EQ(memcmp(buf, payload, LEN), 0);
    CHECK_EQ(cbd_queue_check_rebind(queue, &good), 0);
}

static void test_abandoned(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_channel_conf conf;
    struct hand old, fresh;
    struct cbd_slot s;

    TEST("abandoned requests end with the rings that they were sent on, and give their tags back");
    start_queue(&old);
    use_ring(&old);
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ(cbd_queue_submit(queue, CBD_WRITE, 0, 8192 * i, LEN, bufs[i], i), 0);
    for (uint32_t i = 0; i < DEPTH; i += 2)
        cbd_queue_abandon(queue, i);
    CHECK_EQ(cbd_queue_in_flight(queue), DEPTH);
    conf = fresh_rings(1, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    CHECK_EQ(cbd_queue_in_flight(queue), DEPTH / 2);
    for (uint32_t i = 0; i < DEPTH; i += 2)
        CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 8192 * i, LEN, bufs[i], 100 + i), 0);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EAGAIN);
    for (uint32_t i = 1; i < DEPTH; i += 2) {
        hand_consume(&fresh.submissions, &s);
        CHECK_EQ(s.offset, 8192 * i);
        answer(&fresh, &s);
        expect(i, 0);
    }
    for (uint32_t i = 0; i < DEPTH; i += 2) {
        hand_consume(&fresh.submissions, &s);
        CHECK_EQ(s.op, CBD_READ);
        answer(&fresh, &s);
        expect(100 + i, 0);
    }
    use_ring(&fresh);
}

static void test_lost_completion(void)
{
    uint8_t bufs[2][LEN];
    struct cbd_completion done;
    struct cbd_slot s[2], torn;
    struct cbd_channel_conf conf;
    struct hand old, fresh;

    TEST("completions that were lost on the old rings do not count on the new ones");
    start_queue(&old);
    for (uint32_t i = 0; i < 2; i++) {
        CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &s[i]);
    }
    torn = answer_to(&old, &s[0]);
    hand_produce_torn(&old.completions, &torn);
    while (!bad_slots())
        CHECK_EQ(poll_one(&done), 0);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 2), -EAGAIN);
    conf = fresh_rings(1, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 2), 0);
    for (uint32_t i = 0; i < 3; i++) {
        hand_consume(&fresh.submissions, &s[0]);
        answer(&fresh, &s[0]);
        expect(i, 0);
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
    start_queue(&old);
    CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, bufs[0], 0), 0);
    hand_consume(&old.submissions, &s);
    s = answer_to(&old, &s);
    hand_produce_torn(&old.completions, &s);
    CHECK_EQ(poll_one(&done), 0);
    conf = fresh_rings(1, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    hand_consume(&fresh.submissions, &s);
    s = answer_to(&fresh, &s);
    hand_produce_torn(&fresh.completions, &s);
    for (uint32_t i = 0; i < RING_REREADS_MAX / RING_REREADS_PER_CALL - 1; i++)
        CHECK_EQ(poll_one(&done), 0);
    expect(0, -EIO);
}

static void test_offline(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_slot before[DEPTH], s;
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct cbd_stats stats;
    struct hand old, fresh;

    TEST("offline: all in flight ends with the error, its buffers stay as they are, and nothing new starts");
    start_queue(&old);
    use_ring(&old);
    memset(bufs, 0, sizeof(bufs));
    for (uint32_t i = 0; i < DEPTH; i++) {
        CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &before[i]);
    }
    answer(&old, &before[0]);
    cbd_queue_abandon(queue, 1);
    cbd_queue_set_offline(queue, -ENOLINK);
    CHECK_EQ(cbd_queue_in_flight(queue), DEPTH - 1);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -ENOLINK);
    CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, NULL, 0), -EINVAL);
    for (uint32_t i = 1; i < DEPTH; i++)
        answer(&old, &before[i]);
    for (uint32_t seen = 1 << 1, n = 0; n < DEPTH - 1; n++) {
        CHECK_EQ(cbd_queue_wait(queue, &done, 1, WAIT_US), 1);
        CHECK_EQ(done.result, -ENOLINK);
        CHECK(done.user < DEPTH && !(seen & 1U << done.user));
        seen |= 1U << done.user;
    }
    CHECK_EQ(cbd_queue_wait(queue, &done, 1, WAIT_US), 0);
    CHECK_EQ(cbd_queue_in_flight(queue), 0);
    for (uint32_t i = 0; i < DEPTH; i++) {
        for (uint32_t b = 0; b < LEN; b++)
            CHECK_EQ(bufs[i][b], 0);
    }
    cbd_queue_stats(queue, &stats);
    CHECK_EQ(stats.errors, DEPTH);

    TEST("offline again with another error, and with numbers that are none");
    cbd_queue_set_offline(queue, -ENODEV);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -ENODEV);
    cbd_queue_set_offline(queue, 0);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    cbd_queue_set_offline(queue, -EAGAIN); /* that is what a full queue says */
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    cbd_queue_set_offline(queue, INT32_MIN);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);

    TEST("a refused rebind leaves it offline, a good one ends it");
    conf = fresh_rings(1, &fresh);
    conf.slot_bytes /= 2;
    CHECK_EQ(cbd_queue_rebind(queue, &conf), -EINVAL);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EIO);
    conf.slot_bytes *= 2;
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    CHECK(nothing_submitted(&fresh));
    CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, bufs[0], 9), 0);
    hand_consume(&fresh.submissions, &s);
    answer(&fresh, &s);
    expect(9, 0);
    use_ring(&fresh);
}

static void test_ended_stays_ended(void)
{
    static uint8_t bufs[DEPTH][LEN];
    struct cbd_slot before[4], s;
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct hand old, fresh;

    TEST("what ended offline is not revived by a rebind before it was reported");
    start_queue(&old);
    memset(bufs, 0, sizeof(bufs));
    for (uint32_t i = 0; i < 4; i++) {
        CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, bufs[i], i), 0);
        hand_consume(&old.submissions, &before[i]);
    }
    cbd_queue_set_offline(queue, -ENOLINK);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.user, 0);
    cbd_queue_abandon(queue, 3); /* nobody waits for its result any more */
    CHECK_EQ(cbd_queue_in_flight(queue), 2);
    conf = fresh_rings(1, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    CHECK(nothing_submitted(&fresh));
    for (uint32_t i = 4; i < DEPTH + 2; i++)
        CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, bufs[i % DEPTH], i), 0);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -EAGAIN);
    answer(&fresh, &before[1]); /* names what is not with the backend */
    expect(1, -ENOLINK);
    expect(2, -ENOLINK);
    CHECK_EQ(poll_one(&done), 0);
    CHECK_EQ(bad_slots(), 1);
    for (uint32_t i = 4; i < DEPTH + 2; i++) {
        hand_consume(&fresh.submissions, &s);
        answer(&fresh, &s);
        expect(i, 0);
    }
    CHECK_EQ(bufs[2][0], 0);
    CHECK_EQ(cbd_queue_in_flight(queue), 0);
}

static void test_held(void)
{
    uint8_t buf[LEN] = {0};
    struct cbd_channel_conf conf;
    struct cbd_completion done;
    struct hand old, fresh;
    struct cbd_slot s;

    TEST("a queue that is held touches no rings, and forgets nothing");
    start_queue(&old);
    CHECK_EQ(cbd_queue_submit(queue, CBD_READ, 0, 0, LEN, buf, 1), 0);
    hand_consume(&old.submissions, &s);
    cbd_queue_hold(queue);
    CHECK_EQ(cbd_queue_submit(queue, CBD_FLUSH, 0, 0, 0, NULL, 2), -EAGAIN);
    CHECK(nothing_submitted(&old));
    answer(&old, &s);
    CHECK_EQ(poll_one(&done), 0);
    CHECK_EQ(cbd_queue_in_flight(queue), 1);
    conf = fresh_rings(1, &fresh);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), 0);
    hand_consume(&fresh.submissions, &s);
    answer(&fresh, &s);
    expect(1, 0);
    CHECK_EQ(memcmp(buf, payload, LEN), 0);
    use_ring(&fresh);
}

/* ---- a real backend that dies ------------------------------------------------------------------------------------------ */

#define PART (CAPACITY / DEPTH) /* of each request in flight, so that the model is exact */

struct io {
    uint32_t op, len, off;
    bool busy;
    uint8_t buf[SLOT_BYTES];
};

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
    CHECK_EQ(cbd_queue_submit(queue, io->op, 0, io->off, io->len, io->buf, i), 0);
    io->busy = true;
}

static void finish_some(void)
{
    struct cbd_completion done[3];
    int n = cbd_queue_wait(queue, done, 3, WAIT_US);

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

/* Now and then the old handler outlives the rebind, but only over reads: it would perform writes late, which only a fence prevents. */
static void die_and_come_back(uint64_t *state, struct cbd_channel_conf *now)
{
    struct cbd_channel_conf next = f.conf[rng(state) % CHANNELS];
    bool linger = next.channel_off != now->channel_off && only_reads();

    next.epoch = ++epoch;
    if (!linger) {
        CHECK_EQ(cbd_backend_remove(f.backend, now->channel_off), 0);
        submit_into_the_void(state);
    }
    CHECK_EQ(cbd_backend_add(f.backend, &next), 0);
    CHECK_EQ(cbd_queue_rebind(queue, &next), 0);
    if (linger)
        CHECK_EQ(cbd_backend_remove(f.backend, now->channel_off), 0);
    *now = next;
}

static void test_load(void)
{
    uint64_t state = 17;
    struct cbd_channel_conf now = f.conf[0];
    struct cbd_stats stats;
    uint8_t *got = malloc(CAPACITY);

    TEST("a verifying load sees nothing of a backend that dies and comes back elsewhere");
    model = calloc(1, CAPACITY);
    CHECK(model && got);
    now.epoch = ++epoch;
    cbd_queue_free(queue);
    CHECK_EQ(cbd_queue_new(&f.mem, &now, &queue), 0);
    CHECK_EQ(cbd_backend_add(f.backend, &now), 0);
    for (uint32_t i = 0; i < DEATHS; i++) {
        load(&state, (uint32_t)(rng(&state) % 40));
        die_and_come_back(&state, &now);
    }
    while (cbd_queue_in_flight(queue))
        finish_some();
    CHECK_EQ(pread(f.fd, got, CAPACITY, 0), CAPACITY);
    CHECK_EQ(memcmp(got, model, CAPACITY), 0);
    cbd_queue_stats(queue, &stats);
    CHECK(stats.requests > DEATHS && stats.bytes_read && stats.bytes_written);
    CHECK_EQ(stats.errors + stats.bad_slots, 0);
    free(model);
    free(got);
}

int main(void)
{
    uint64_t state = 5;

    fill_random(payload, sizeof(payload), &state);
    for (int mode = 0; mode < 2; mode++) {
        printf("%s memory\n", mode ? "incoherent" : "coherent");
        fixture_start(&f, mode ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
        for (uint32_t i = 0; i < CHANNELS; i++)
            CHECK_EQ(cbd_backend_remove(f.backend, f.conf[i].channel_off), 0);
        epoch = f.conf[0].epoch;
        test_sent_again();
        test_late_completions();
        test_refused();
        test_abandoned();
        test_lost_completion();
        test_torn_half_way();
        test_offline();
        test_ended_stays_ended();
        test_held();
        test_load();
        cbd_queue_free(queue);
        queue = NULL;
        fixture_stop(&f);
    }
    return 0;
}
