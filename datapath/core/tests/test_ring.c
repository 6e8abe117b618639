/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "check.h"
#include "fixture.h"
#include "idle.h"

#define THREADED_SLOTS 20000U

static struct fixture f;

static void test_order(void)
{
    struct hand h;
    struct ring consumer;
    struct cbd_slot slot;
    uint64_t rereads = 0;

    TEST("order and wrap-around");
    hand_init(&h, &f);
    consumer = h.submissions;
    for (uint64_t i = 1; i <= 10 * DEPTH; i++) {
        CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_EMPTY);
        slot = (struct cbd_slot){.tid = i * 3};
        ring_produce(&h.submissions, &slot);
        CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_SLOT);
        CHECK_EQ(slot.seq, i);
        CHECK_EQ(slot.tid, i * 3);
    }
    for (uint64_t i = 0; i < DEPTH; i++)
        ring_produce(&h.submissions, &slot);
    for (uint64_t i = 0; i < DEPTH; i++)
        CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_SLOT);
    CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_EMPTY);
    CHECK_EQ(rereads, 0);
}

static void test_epoch(void)
{
    struct hand h;
    struct ring next;
    struct cbd_slot slot = {.tid = 1};
    uint64_t rereads = 0;

    TEST("slots of another epoch are not seen");
    hand_init(&h, &f);
    for (uint64_t i = 0; i < DEPTH; i++)
        ring_produce(&h.submissions, &slot);
    ring_init(&next, &h.ch.map, h.ch.submissions, DEPTH, h.ch.conf.epoch + 1);
    CHECK_EQ(ring_consume(&next, &slot, &rereads), RING_EMPTY);
    ring_init(&h.submissions, &h.ch.map, h.ch.submissions, DEPTH, h.ch.conf.epoch + 1);
    slot.tid = 99;
    ring_produce(&h.submissions, &slot);
    CHECK_EQ(ring_consume(&next, &slot, &rereads), RING_SLOT);
    CHECK_EQ(slot.tid, 99);
    CHECK_EQ(ring_consume(&next, &slot, &rereads), RING_EMPTY);
}

static void test_torn(void)
{
    struct hand h;
    struct ring consumer;
    struct cbd_slot slot = {.tid = 5}, whole;
    uint64_t rereads = 0;

    TEST("a torn slot is read again, and taken once it is whole");
    memset(f.mem.base, 0, f.mem.len);
    hand_init(&h, &f);
    consumer = h.submissions;
    hand_produce_torn(&h.submissions, &slot);
    CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_TORN);
    CHECK_EQ(rereads, RING_REREADS_PER_CALL);
    h.submissions.seq--;
    whole = (struct cbd_slot){.tid = 6};
    ring_produce(&h.submissions, &whole);
    CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_SLOT);
    CHECK_EQ(slot.tid, 6);

    TEST("a slot that stays torn is given up, and the next one is taken");
    hand_produce_torn(&h.submissions, &slot);
    ring_produce(&h.submissions, &whole);
    rereads = 0;
    for (unsigned i = 1; i < RING_REREADS_MAX / RING_REREADS_PER_CALL; i++)
        CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_TORN);
    CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_BAD);
    CHECK_EQ(rereads, RING_REREADS_MAX);
    CHECK_EQ(consumer.seq, 2);
    CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_SLOT);
}

/* Any flipped bit of a slot: the consumer sees nothing or a torn slot, never a wrong one. */
static void test_flipped_bits(void)
{
    TEST("no flipped bit goes through");
    for (unsigned bit = 0; bit < 512; bit++) {
        struct hand h;
        struct ring consumer;
        struct cbd_slot slot = {.tid = 0x1234567890, .offset = 4096, .len = 512};
        uint64_t rereads = 0;

        memset(f.mem.base, 0, f.mem.len);
        hand_init(&h, &f);
        consumer = h.submissions;
        ring_produce(&h.submissions, &slot);
        f.mem.base[h.ch.submissions + bit / 8] ^= (uint8_t)(1U << bit % 8);
        CHECK(ring_consume(&consumer, &slot, &rereads) != RING_SLOT);
        f.mem.base[h.ch.submissions + bit / 8] ^= (uint8_t)(1U << bit % 8);
        CHECK_EQ(ring_consume(&consumer, &slot, &rereads), RING_SLOT);
    }
}

static void test_payload(void)
{
    static uint8_t in[SLOT_BYTES], out[SLOT_BYTES];
    struct hand h;
    uint64_t state = 3, rereads = 0;
    uint32_t crc;

    TEST("payload whose CRC never fits is an error after a bounded number of re-reads");
    hand_init(&h, &f);
    fill_random(in, sizeof(in), &state);
    crc = cxl_crc32c(0, in, sizeof(in));
    ring_put_payload(&h.ch.map, h.ch.requests, in, sizeof(in));
    CHECK_EQ(ring_get_payload_checked(&h.ch.map, h.ch.requests, out, sizeof(out), crc, &rereads), 0);
    CHECK_EQ(memcmp(in, out, sizeof(in)), 0);
    CHECK_EQ(rereads, 0);
    f.mem.base[h.ch.requests + 4000] ^= 1;
    CHECK_EQ(ring_get_payload_checked(&h.ch.map, h.ch.requests, out, sizeof(out), crc, &rereads), -EIO);
    CHECK_EQ(rereads, RING_PAYLOAD_REREADS);
}

static void *produce_all(void *arg)
{
    struct hand *h = arg;
    struct cbd_slot slot;

    for (uint64_t i = 1; i <= THREADED_SLOTS; i++) {
        uint64_t payload[8] = {i, i, i, i, i, i, i, i};
        uint32_t data_off = (uint32_t)(i % DEPTH) * SLOT_BYTES;

        /* The other ring brings a slot back for each one that was consumed. */
        if (i > DEPTH / 2)
            hand_consume(&h->completions, &slot);
        ring_put_payload(&h->ch.map, h->ch.requests + data_off, payload, sizeof(payload));
        slot = (struct cbd_slot){.tid = i, .data_off = data_off};
        ring_produce(&h->submissions, &slot);
    }
    return NULL;
}

static void test_threads(void)
{
    struct hand producer, consumer;
    pthread_t thread;

    TEST("two threads, payload before slot");
    memset(f.mem.base, 0, f.mem.len);
    hand_init(&producer, &f);
    hand_init(&consumer, &f);
    CHECK_EQ(pthread_create(&thread, NULL, produce_all, &producer), 0);
    for (uint64_t i = 1; i <= THREADED_SLOTS; i++) {
        uint64_t payload[8];
        struct cbd_slot slot;

        hand_consume(&consumer.submissions, &slot);
        CHECK_EQ(slot.tid, i);
        ring_get_payload(&consumer.ch.map, consumer.ch.requests + slot.data_off, payload, sizeof(payload));
        for (unsigned j = 0; j < 8; j++)
            CHECK_EQ(payload[j], i);
        ring_produce(&consumer.completions, &slot);
    }
    pthread_join(thread, NULL);
}

int main(void)
{
    for (int coherence = 0; coherence < 2; coherence++) {
        memset(&f, 0, sizeof(f));
        fixture_memory(&f, (enum cxl_coherence)coherence, 0);
        test_order();
        test_epoch();
        test_torn();
        test_flipped_bits();
        test_payload();
        test_threads();
        fixture_stop(&f);
    }
    return 0;
}
