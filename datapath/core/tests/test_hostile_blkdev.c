/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A real backend against submissions that no honest blkdev would write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "crc.h"
#include "fixture.h"

#define FUZZ_ROUNDS 20000U

static struct fixture f;
static struct hand hand;
static uint8_t payload[SLOT_BYTES];

static struct cbd_slot valid_write(void)
{
    struct cbd_slot s = {.op = CBD_WRITE,
                         .flags = CBD_SLOT_DATA_CRC,
                         .tag = 3,
                         .tid = hand.submissions.seq + 1,
                         .offset = 4096,
                         .len = 4096,
                         .data_off = 3 * SLOT_BYTES,
                         .data_len = 4096,
                         .credit = (uint32_t)hand.completions.seq};

    s.data_crc = cxl_crc32c(0, payload, s.len);
    ring_put_payload(&hand.ch.map, hand.ch.requests + s.data_off, payload, s.len);
    return s;
}

static struct cbd_slot valid_other(uint8_t op)
{
    struct cbd_slot s = {.op = op, .tag = 1, .tid = hand.submissions.seq + 1, .credit = (uint32_t)hand.completions.seq};

    if (op != CBD_FLUSH) {
        s.offset = 8192;
        s.len = 512;
    }
    return s;
}

static int32_t ask(struct cbd_slot *s)
{
    struct cbd_slot done;

    ring_produce(&hand.submissions, s);
    hand_consume(&hand.completions, &done);
    CHECK_EQ(done.tag, s->tag);
    CHECK_EQ(done.tid, s->tid);
    CHECK_EQ(done.op, s->op);
    CHECK_EQ(done.credit, (uint32_t)hand.submissions.seq);
    return done.result;
}

static void test_valid(void)
{
    struct cbd_slot s = valid_write();

    TEST("what is altered below is fine as it is");
    CHECK_EQ(ask(&s), 0);
    for (uint8_t op = CBD_READ; op <= CBD_FLUSH; op++) {
        s = valid_other(op);
        CHECK_EQ(ask(&s), 0);
    }
    s = valid_write();
    s.data_off = 5 * SLOT_BYTES + 100; /* not our habit, but inside the area */
    ring_put_payload(&hand.ch.map, hand.ch.requests + s.data_off, payload, s.len);
    CHECK_EQ(ask(&s), 0);
    CHECK_EQ(backend_stats(&f).bad_slots, 0);
}

/* Alters one field of a valid slot, and expects a refusal that is counted. */
#define REFUSED(base, field, value) \
    do { \
        struct cbd_slot s_ = base; \
        uint64_t bad_ = backend_stats(&f).bad_slots; \
        s_.field = (value); \
        CHECK_EQ(ask(&s_), -EINVAL); \
        CHECK_EQ(backend_stats(&f).bad_slots, bad_ + 1); \
    } while (0)

static void test_fields(void)
{
    const uint32_t area = DEPTH * SLOT_BYTES;
    uint8_t before[CAPACITY / 64], after[CAPACITY / 64];

    TEST("every field");
    CHECK_EQ(pread(f.fd, before, sizeof(before), 0), sizeof(before));
    memset(payload, 0xbb, sizeof(payload)); /* would show in the file */
    REFUSED(valid_write(), op, 0);
    REFUSED(valid_write(), op, 6);
    REFUSED(valid_write(), op, 255);
    REFUSED(valid_write(), op, CBD_READ);
    REFUSED(valid_write(), flags, 0);
    REFUSED(valid_write(), flags, CBD_SLOT_DATA_CRC | 4);
    REFUSED(valid_write(), flags, 255);
    REFUSED(valid_other(CBD_READ), flags, CBD_SLOT_FUA);
    REFUSED(valid_other(CBD_READ), flags, CBD_SLOT_DATA_CRC);
    REFUSED(valid_other(CBD_FLUSH), flags, CBD_SLOT_FUA);
    REFUSED(valid_write(), tag, DEPTH);
    REFUSED(valid_write(), tag, 0x7fff);
    REFUSED(valid_write(), tag, CBD_NO_TAG);
    REFUSED(valid_write(), offset, 1);
    REFUSED(valid_write(), offset, CAPACITY);
    REFUSED(valid_write(), offset, CAPACITY - 512);
    REFUSED(valid_write(), offset, 1ULL << 63);
    REFUSED(valid_write(), offset, UINT64_MAX - 511);
    REFUSED(valid_write(), offset, UINT64_MAX - 4095);
    REFUSED(valid_write(), len, 0);
    REFUSED(valid_write(), len, 511);
    REFUSED(valid_write(), len, 4096 + 512);
    REFUSED(valid_write(), len, SLOT_BYTES + 512);
    REFUSED(valid_write(), len, UINT32_MAX);
    REFUSED(valid_other(CBD_READ), len, SLOT_BYTES + 512);
    REFUSED(valid_other(CBD_READ), len, UINT32_MAX - 511);
    REFUSED(valid_other(CBD_DISCARD), len, UINT32_MAX - 511);
    REFUSED(valid_other(CBD_WRITE_ZEROES), len, CAPACITY);
    REFUSED(valid_other(CBD_FLUSH), len, 512);
    REFUSED(valid_other(CBD_FLUSH), offset, 512);
    REFUSED(valid_write(), data_off, area);
    REFUSED(valid_write(), data_off, area - 4095);
    REFUSED(valid_write(), data_off, UINT32_MAX);
    REFUSED(valid_write(), data_off, UINT32_MAX - 4095); /* wraps in 32 bits */
    REFUSED(valid_other(CBD_READ), data_off, 512);
    REFUSED(valid_write(), data_len, 0);
    REFUSED(valid_write(), data_len, 4096 - 512);
    REFUSED(valid_write(), data_len, 8192);
    REFUSED(valid_write(), data_len, UINT32_MAX);
    REFUSED(valid_other(CBD_READ), data_len, 512);
    REFUSED(valid_other(CBD_DISCARD), data_len, 512);
    REFUSED(valid_write(), result, 1);
    REFUSED(valid_write(), result, -1);
    REFUSED(valid_write(), credit, (uint32_t)hand.completions.seq + 1);
    REFUSED(valid_write(), credit, (uint32_t)hand.completions.seq - DEPTH);
    REFUSED(valid_write(), reserved, 1);
    CHECK_EQ(pread(f.fd, after, sizeof(after), 0), sizeof(after));
    CHECK_EQ(memcmp(before, after, sizeof(before)), 0);
}

static void test_payload_crc(void)
{
    struct cbd_slot s = valid_write();
    uint64_t retries = backend_stats(&f).crc_retries;

    TEST("payload whose CRC never fits is not written");
    s.data_crc ^= 1;
    CHECK_EQ(ask(&s), -EIO);
    CHECK_EQ(backend_stats(&f).crc_retries, retries + RING_PAYLOAD_REREADS);
}

static void test_torn_slot(void)
{
    struct cbd_slot s = valid_write(), done;
    uint64_t bad = backend_stats(&f).bad_slots;

    TEST("a slot that stays torn is answered by its number, and the next one is served");
    hand_produce_torn(&hand.submissions, &s);
    hand_consume(&hand.completions, &done);
    CHECK_EQ(done.tag, CBD_NO_TAG);
    CHECK_EQ(done.tid, hand.submissions.seq);
    CHECK_EQ(done.result, -EIO);
    CHECK_EQ(backend_stats(&f).bad_slots, bad + 1);
    s = valid_write();
    CHECK_EQ(ask(&s), 0);
}

/* A random value, often one at an edge. */
static uint64_t edgy(uint64_t *state)
{
    static const uint64_t edges[] = {0, 1, 2, 3, 4, 5, 6, DEPTH, 512, 4096, SLOT_BYTES, DEPTH * SLOT_BYTES, CAPACITY, UINT16_MAX,
                                     INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX};
    uint64_t r = rng(state);

    if (r % 4 == 0)
        return rng(state);
    return edges[(r >> 8) % (sizeof(edges) / sizeof(edges[0]))] + (r >> 16) % 3 - 1;
}

static void spoil(struct cbd_slot *s, uint64_t *state)
{
    for (unsigned n = (unsigned)(rng(state) % 4); n; n--) {
        switch (rng(state) % 10) {
        case 0: s->op = (uint8_t)edgy(state); break;
        case 1: s->flags = (uint8_t)(rng(state) % 4); break;
        case 2: s->tag = (uint16_t)edgy(state); break;
        case 3: s->tid = edgy(state); break;
        case 4: s->offset = edgy(state); break;
        case 5: s->len = (uint32_t)edgy(state); break;
        case 6: s->data_off = (uint32_t)edgy(state); break;
        case 7: s->data_len = (uint32_t)edgy(state); break;
        case 8: s->credit = (uint32_t)edgy(state); break;
        default: s->data_crc = (uint32_t)edgy(state); break;
        }
    }
}

static void test_fuzz(void)
{
    uint64_t state = 4711, answered = 0;
    uint8_t *other = f.mem.base + f.conf[1].channel_off;
    uint8_t *untouched = malloc(f.channel_bytes);

    TEST("random slots: each is answered, nothing else is touched");
    CHECK(untouched);
    memcpy(untouched, other, f.channel_bytes);
    for (unsigned i = 0; i < FUZZ_ROUNDS; i++) {
        struct cbd_slot s = i % 2 ? valid_write() : valid_other((uint8_t)(CBD_READ + rng(&state) % 4));

        spoil(&s, &state);
        if (i % 16 == 0)
            fill_random(&s, sizeof(s), &state);
        answered += ask(&s) == 0;
    }
    CHECK(answered > FUZZ_ROUNDS / 20 && answered < FUZZ_ROUNDS * 9 / 10);
    CHECK_EQ(memcmp(untouched, other, f.channel_bytes), 0);
    free(untouched);
}

/* Several at once, so that tags are used twice while they are in flight. The tid counts, so each answer can be told. */
static uint32_t burst(uint64_t *state, bool *open, uint64_t *refused)
{
    uint32_t count = 1 + (uint32_t)(rng(state) % DEPTH);
    uint64_t first = hand.submissions.seq + 1;

    for (uint32_t i = 0; i < count; i++) {
        struct cbd_slot s = rng(state) % 2 ? valid_write() : valid_other((uint8_t)(CBD_READ + rng(state) % 4));

        s.tag = (uint16_t)(rng(state) % (DEPTH / 2));
        if (rng(state) % 4 == 0)
            spoil(&s, state);
        s.tid = hand.submissions.seq + 1;
        open[i] = true;
        ring_produce(&hand.submissions, &s);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct cbd_slot done;

        hand_consume(&hand.completions, &done);
        CHECK(done.tid >= first && done.tid < first + count && open[done.tid - first]);
        CHECK(done.result <= 0);
        open[done.tid - first] = false;
        *refused += done.result == -EINVAL;
    }
    return count;
}

static void test_bursts(void)
{
    uint64_t state = 1789, sent = 0, refused = 0;
    uint8_t *other = f.mem.base + f.conf[1].channel_off;
    uint8_t *untouched = malloc(f.channel_bytes);
    bool open[DEPTH];

    TEST("random bursts: each is answered once, in any order, nothing else is touched");
    CHECK(untouched);
    memcpy(untouched, other, f.channel_bytes);
    for (unsigned i = 0; i < FUZZ_ROUNDS / DEPTH; i++)
        sent += burst(&state, open, &refused);
    CHECK(refused > sent / 20 && refused < sent * 9 / 10);
    CHECK_EQ(memcmp(untouched, other, f.channel_bytes), 0);
    free(untouched);
    struct cbd_slot s = valid_write();
    CHECK_EQ(ask(&s), 0);
}

struct flipper {
    uint8_t *where;
    atomic_bool stop;
};

static void *flip(void *arg)
{
    struct flipper *flipper = arg;

    for (uint8_t i = 0; !atomic_load_explicit(&flipper->stop, memory_order_relaxed); i++)
        *(volatile uint8_t *)flipper->where = i & 1 ? payload[0] : (uint8_t)~payload[0];
    return NULL;
}

static void test_payload_that_changes(void)
{
    struct cbd_slot s = valid_write();
    struct flipper flipper = {.where = hand.ch.map.base + hand.ch.requests + s.data_off};
    uint8_t in_file[4096];
    pthread_t thread;
    unsigned written = 0;

    TEST("payload that changes under the eyes of the handler: what was checked is what is written");
    CHECK_EQ(pthread_create(&thread, NULL, flip, &flipper), 0);
    for (unsigned i = 0; i < FUZZ_ROUNDS / 10; i++) {
        int32_t result;

        s.tid = hand.submissions.seq + 1;
        s.credit = (uint32_t)hand.completions.seq;
        result = ask(&s);
        CHECK(result == 0 || result == -EIO);
        CHECK_EQ(pread(f.fd, in_file, sizeof(in_file), (off_t)s.offset), sizeof(in_file));
        if (!result)
            CHECK_EQ(memcmp(in_file, payload, sizeof(in_file)), 0);
        written += !result;
    }
    atomic_store(&flipper.stop, true);
    pthread_join(thread, NULL);
    CHECK(written);
}

static void test_all(void)
{
    fixture_start(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[1].channel_off), 0);
    hand_init(&hand, &f);
    test_valid();
    test_fields();
    test_payload_crc();
    test_torn_slot();
    test_fuzz();
    test_bursts();
    test_payload_that_changes();
    fixture_stop(&f);
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
