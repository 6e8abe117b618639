/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Two rings and their payload, both ways, for several laps: everything arrives once, in order and whole.
 */
#include <string.h>

#include "channel.h"
#include "cxl_core.h"
#include "ring.h"
#include "scenarios.h"

#define DEPTH 4U
#define LAPS 5U
#define SLOTS (DEPTH * LAPS)
#define MAX_PAYLOAD 200U

struct end {
    struct channel ch;
    struct ring submissions, completions;
    uint64_t rereads;
};

/* Fills what slot number seq of one direction carries; returns its length. */
static uint32_t payload(uint64_t seq, uint32_t direction, uint8_t *out)
{
    uint32_t len = 1 + (uint32_t)(seq * 37 + direction * 11) % MAX_PAYLOAD;

    for (uint32_t i = 0; i < len; i++)
        out[i] = (uint8_t)(seq * 151 + direction * 89 + i * 7 + (i >> 3));
    return len;
}

static void send(struct end *e, struct ring *ring, uint64_t area, uint32_t direction)
{
    struct cbd_slot slot = {.tid = ring->seq + 1};
    uint8_t bytes[MAX_PAYLOAD];

    slot.data_off = channel_data_off(&e->ch, (uint32_t)(slot.tid % DEPTH));
    slot.data_len = payload(slot.tid, direction, bytes);
    if (channel_data_crc(&e->ch))
        slot.data_crc = cxl_crc32c(0, bytes, slot.data_len);
    ring_put_payload(&e->ch.map, area + slot.data_off, bytes, slot.data_len);
    ring_produce(ring, &slot);
}

static void check(struct end *e, const struct cbd_slot *slot, uint64_t seq, uint64_t area, uint32_t direction)
{
    uint8_t want[MAX_PAYLOAD], got[MAX_PAYLOAD];
    uint32_t len = payload(seq, direction, want);
    uint64_t off = area + slot->data_off;

    if (slot->tid != seq || slot->data_len != len)
        sim_fail("direction %u: slot %llu came where slot %llu should", direction, (unsigned long long)slot->tid,
                 (unsigned long long)seq);
    if (!channel_data_crc(&e->ch))
        ring_get_payload(&e->ch.map, off, got, len);
    else if (ring_get_payload_checked(&e->ch.map, off, got, len, slot->data_crc, &e->rereads))
        sim_lost("the CRC of a payload never fitted");
    if (memcmp(got, want, len))
        sim_fail("direction %u: the payload of slot %llu is wrong", direction, (unsigned long long)seq);
    sim_progress();
}

/* Whether a slot was there. */
static bool receive(struct end *e, struct ring *ring, uint64_t area, uint32_t direction)
{
    struct cbd_slot slot;

    switch (ring_consume(ring, &slot, &e->rereads)) {
    case RING_SLOT:
        check(e, &slot, ring->seq, area, direction);
        return true;
    case RING_BAD:
        sim_lost("a slot stayed torn");
        return false;
    default:
        return false;
    }
}

/* Announces as many as there are free slots, which the answers tell. */
static void ask(void *arg)
{
    struct end *e = arg;

    while (e->completions.seq < SLOTS) {
        bool sent = e->submissions.seq < SLOTS && e->submissions.seq - e->completions.seq < DEPTH && sim_random(2);

        if (sent)
            send(e, &e->submissions, e->ch.requests, 0);
        if (!receive(e, &e->completions, e->ch.responses, 1) && !sent)
            sim_rest();
    }
}

static void reply(void *arg)
{
    struct end *e = arg;

    while (e->completions.seq < SLOTS) {
        if (receive(e, &e->submissions, e->ch.requests, 0))
            send(e, &e->completions, e->ch.responses, 1);
        else
            sim_rest();
    }
}

static void end_init(struct end *e, uint32_t host, uint32_t variant)
{
    struct cxl_mem mem = sim_mem(host);
    struct cbd_channel_conf conf = {.ring_depth = DEPTH, .slot_bytes = CBD_MIN_SLOT_BYTES, .epoch = 1};

    conf.features = (variant & RING_CRC) ? CBD_FEATURE_DATA_CRC : 0;
    if (channel_init(&e->ch, &mem, &conf))
        sim_fail("the channel does not fit");
    ring_init(&e->submissions, &e->ch.map, e->ch.submissions, DEPTH, 1);
    ring_init(&e->completions, &e->ch.map, e->ch.completions, DEPTH, 1);
}

void scenario_ring(uint32_t variant)
{
    struct end asker = {0}, replier = {0};

    end_init(&asker, 0, variant);
    end_init(&replier, 1, variant);
    sim_actor(0, ask, &asker);
    sim_actor(1, reply, &replier);
    sim_go();
}
