/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A real queue against completions that no honest backend would write.
 */
#include <errno.h>
#include <string.h>

#include "crc.h"
#include "fixture.h"
#include "queue.h"

#define FUZZ_ROUNDS 20000U
#define LEN 4096U

static struct fixture f;
static struct hand hand;
static uint8_t payload[SLOT_BYTES];

/* Submits a read or write of LEN bytes and returns an honest answer to it, not yet sent. */
static struct cbd_slot honest(uint32_t op, void *buf, uint64_t user)
{
    struct cbd_slot s, done;

    CHECK_EQ(cbd_queue_submit(f.queue[0], op, 0, 8192, LEN, buf, user), 0);
    hand_consume(&hand.submissions, &s);
    done = (struct cbd_slot){.op = s.op, .tag = s.tag, .tid = s.tid, .offset = s.offset, .len = s.len,
                             .credit = (uint32_t)hand.submissions.seq};
    if (op == CBD_READ) {
        done.flags = CBD_SLOT_DATA_CRC;
        done.data_off = s.tag * SLOT_BYTES;
        done.data_len = s.len;
        done.data_crc = cxl_crc32c(0, payload, s.len);
        ring_put_payload(&hand.ch.map, hand.ch.responses + done.data_off, payload, s.len);
    }
    return done;
}

static int poll_one(struct cbd_completion *done)
{
    return cbd_queue_poll(f.queue[0], done, 1);
}

static void test_honest(void)
{
    uint8_t *buf = malloc(LEN); /* exact, so that one byte too many is found */
    struct cbd_completion done;
    struct cbd_slot s = honest(CBD_READ, buf, 7);

    TEST("what is altered below is fine as it is");
    ring_produce(&hand.completions, &s);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.result, 0);
    CHECK_EQ(done.user, 7);
    CHECK_EQ(memcmp(buf, payload, LEN), 0);
    s = honest(CBD_WRITE, buf, 8);
    s.result = -ENOSPC;
    ring_produce(&hand.completions, &s);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.result, -ENOSPC);
    CHECK_EQ(queue_stats(&f).bad_slots, 0);
    free(buf);
}

/* Alters a field that does not name the request: the request ends with -EIO and its buffer is not written. */
#define SPOILED(op_, field, value) \
    do { \
        uint8_t *buf_ = calloc(1, LEN); \
        struct cbd_slot s_ = honest(op_, buf_, 9); \
        struct cbd_completion done_; \
        uint64_t bad_ = queue_stats(&f).bad_slots; \
        s_.field = (value); \
        ring_produce(&hand.completions, &s_); \
        CHECK_EQ(poll_one(&done_), 1); \
        CHECK_EQ(done_.user, 9); \
        CHECK_EQ(done_.result, -EIO); \
        CHECK_EQ(queue_stats(&f).bad_slots, bad_ + 1); \
        for (uint32_t i_ = 0; i_ < LEN; i_++) \
            CHECK_EQ(buf_[i_], 0); \
        free(buf_); \
    } while (0)

static void test_fields(void)
{
    const uint32_t area = DEPTH * SLOT_BYTES;

    TEST("every field that does not name the request");
    SPOILED(CBD_READ, op, CBD_WRITE);
    SPOILED(CBD_READ, op, 0);
    SPOILED(CBD_READ, flags, 0);
    SPOILED(CBD_READ, flags, 255);
    SPOILED(CBD_WRITE, flags, CBD_SLOT_DATA_CRC);
    SPOILED(CBD_READ, offset, 0);
    SPOILED(CBD_READ, len, LEN - 512);
    SPOILED(CBD_READ, len, UINT32_MAX);
    SPOILED(CBD_READ, data_off, area);
    SPOILED(CBD_READ, data_off, area - LEN + 1);
    SPOILED(CBD_READ, data_off, UINT32_MAX);
    SPOILED(CBD_READ, data_off, UINT32_MAX - LEN + 1);
    SPOILED(CBD_WRITE, data_off, 64);
    SPOILED(CBD_READ, data_len, 0);
    SPOILED(CBD_READ, data_len, LEN - 1);
    SPOILED(CBD_READ, data_len, LEN + 1);
    SPOILED(CBD_READ, data_len, UINT32_MAX);
    SPOILED(CBD_WRITE, data_len, 1);
    SPOILED(CBD_READ, result, 1);
    SPOILED(CBD_READ, result, INT32_MAX);
    SPOILED(CBD_READ, result, -CBD_MAX_ERRNO - 1);
    SPOILED(CBD_READ, result, INT32_MIN);
    SPOILED(CBD_READ, result, -EIO); /* an error carries no payload */
    SPOILED(CBD_READ, credit, (uint32_t)hand.submissions.seq + 1);
    SPOILED(CBD_READ, credit, (uint32_t)hand.submissions.seq + INT32_MAX);
    SPOILED(CBD_READ, reserved, 1);
}

/* Alters what names the request: ignored, and the honest answer still arrives. */
#define IGNORED(field, value) \
    do { \
        uint8_t *buf_ = malloc(LEN); \
        struct cbd_slot s_ = honest(CBD_READ, buf_, 10), spoiled_ = s_; \
        struct cbd_completion done_; \
        uint64_t bad_ = queue_stats(&f).bad_slots; \
        spoiled_.field = (value); \
        ring_produce(&hand.completions, &spoiled_); \
        CHECK_EQ(poll_one(&done_), 0); \
        CHECK_EQ(queue_stats(&f).bad_slots, bad_ + 1); \
        ring_produce(&hand.completions, &s_); \
        CHECK_EQ(poll_one(&done_), 1); \
        CHECK_EQ(done_.result, 0); \
        ring_produce(&hand.completions, &s_); /* and once more: it is over */ \
        CHECK_EQ(poll_one(&done_), 0); \
        CHECK_EQ(queue_stats(&f).bad_slots, bad_ + 2); \
        free(buf_); \
    } while (0)

static void test_names(void)
{
    TEST("tag and tid");
    IGNORED(tag, (uint16_t)(s_.tag ^ 1));
    IGNORED(tag, DEPTH);
    IGNORED(tag, 0x8000);
    IGNORED(tag, CBD_NO_TAG); /* without an error it names nothing */
    IGNORED(tid, 0);
    IGNORED(tid, s_.tid + 1);
    IGNORED(tid, UINT64_MAX);
}

static void test_payload_crc(void)
{
    uint8_t *buf = malloc(LEN);
    struct cbd_slot s = honest(CBD_READ, buf, 11);
    struct cbd_completion done;

    TEST("payload whose CRC never fits is an error");
    s.data_crc ^= 1;
    ring_produce(&hand.completions, &s);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.result, -EIO);
    CHECK_EQ(queue_stats(&f).crc_retries, RING_PAYLOAD_REREADS);
    free(buf);
}

static void test_unreadable_submission(void)
{
    uint8_t *buf = malloc(LEN);
    struct cbd_slot s = honest(CBD_WRITE, buf, 12), refusal = {.tag = CBD_NO_TAG, .tid = s.tid, .result = -EIO};
    struct cbd_completion done;

    TEST("a submission that could not be read fails by its number");
    ring_produce(&hand.completions, &refusal);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.user, 12);
    CHECK_EQ(done.result, -EIO);
    free(buf);
}

static void test_out_of_order(void)
{
    uint8_t bufs[DEPTH][LEN];
    struct cbd_slot answers[DEPTH];
    struct cbd_completion done[DEPTH];

    TEST("answers in any order, each to its own buffer");
    for (uint32_t i = 0; i < DEPTH; i++) {
        memset(payload, (int)i + 1, sizeof(payload));
        answers[i] = honest(CBD_READ, bufs[i], i);
    }
    for (uint32_t i = DEPTH; i-- > 0;)
        ring_produce(&hand.completions, &answers[i]);
    CHECK_EQ(cbd_queue_poll(f.queue[0], done, DEPTH), DEPTH);
    for (uint32_t i = 0; i < DEPTH; i++) {
        CHECK_EQ(done[i].result, 0);
        CHECK_EQ(done[i].user, DEPTH - 1 - i);
        for (uint32_t b = 0; b < LEN; b++)
            CHECK_EQ(bufs[i][b], i + 1);
    }
}

static void test_lost_completion(void)
{
    uint8_t bufs[3][LEN];
    struct cbd_slot a = honest(CBD_READ, bufs[0], 20), b = honest(CBD_READ, bufs[1], 21), c = honest(CBD_READ, bufs[2], 22);
    struct cbd_completion done;
    int n = 0;

    TEST("a completion that stays torn: the others arrive, then the one that is left fails");
    hand_produce_torn(&hand.completions, &a);
    ring_produce(&hand.completions, &b);
    while (!n)
        n = poll_one(&done);
    CHECK_EQ(done.user, 21);
    CHECK_EQ(done.result, 0);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_FLUSH, 0, 0, 0, NULL, 23), -EAGAIN);
    ring_produce(&hand.completions, &c);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.user, 22);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.user, 20);
    CHECK_EQ(done.result, -EIO);
    a = honest(CBD_READ, bufs[0], 24);
    ring_produce(&hand.completions, &a);
    CHECK_EQ(poll_one(&done), 1);
    CHECK_EQ(done.result, 0);
}

static void test_abandon(void)
{
    uint8_t *buf = malloc(LEN);
    struct cbd_slot s = honest(CBD_READ, buf, 30);
    struct cbd_completion done;

    TEST("an abandoned request is neither written nor reported, and gives its tag back");
    cbd_queue_abandon(f.queue[0], 30);
    free(buf);
    ring_produce(&hand.completions, &s);
    CHECK_EQ(poll_one(&done), 0);
    CHECK_EQ(cbd_queue_in_flight(f.queue[0]), 0);
}

static void test_chatter(void)
{
    struct cbd_slot s = {.tag = 1, .tid = 5};
    struct cbd_completion done;

    TEST("a peer that never stops talking does not keep poll");
    for (uint32_t i = 0; i < DEPTH; i++)
        ring_produce(&hand.completions, &s);
    CHECK_EQ(poll_one(&done), 0);
}

static void test_fuzz(void)
{
    uint64_t state = 815, bad = queue_stats(&f).bad_slots, good = 0;
    uint8_t *buf = malloc(LEN);

    TEST("random completions");
    for (unsigned i = 0; i < FUZZ_ROUNDS; i++) {
        struct cbd_slot s = honest(i % 3 ? CBD_READ : CBD_WRITE, buf, i), spoiled = s;
        struct cbd_completion done;
        uint8_t *bytes = (uint8_t *)&spoiled;

        for (unsigned n = (unsigned)(rng(&state) % 3); n; n--)
            bytes[12 + rng(&state) % 44] = (uint8_t)(rng(&state) % 2 ? 0xff : rng(&state));
        if (i % 16 == 0)
            fill_random(&spoiled, sizeof(spoiled), &state);
        ring_produce(&hand.completions, &spoiled);
        if (!poll_one(&done)) {
            ring_produce(&hand.completions, &s);
            CHECK_EQ(poll_one(&done), 1);
            CHECK_EQ(done.result, 0);
        }
        CHECK_EQ(done.user, i);
        CHECK_EQ(done.len, LEN);
        CHECK(done.result <= 0 && done.result >= -CBD_MAX_ERRNO);
        good += done.result == 0;
    }
    CHECK_EQ(cbd_queue_in_flight(f.queue[0]), 0);
    CHECK(good > FUZZ_ROUNDS / 10 && queue_stats(&f).bad_slots > bad + FUZZ_ROUNDS / 10);
    free(buf);
}

int main(void)
{
    uint64_t state = 5;

    fixture_start(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0);
    hand_init(&hand, &f);
    fill_random(payload, sizeof(payload), &state);
    test_honest();
    test_fields();
    test_names();
    test_payload_crc();
    test_unreadable_submission();
    test_out_of_order();
    test_lost_completion();
    test_abandon();
    test_chatter();
    test_fuzz();
    fixture_stop(&f);
    return 0;
}
