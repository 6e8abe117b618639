/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "driven.h"

#include "crc.h"

#define LAPS 3U /* of the ring, before it is left */

void driven_start(struct driven *d, enum cxl_coherence coherence)
{
    uint64_t state = 5;

    *d = (struct driven){0};
    fixture_start(&d->f, coherence, CBD_FEATURE_DATA_CRC);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_remove(d->f.backend, d->f.conf[i].channel_off), 0);
    d->epoch = d->f.conf[0].epoch;
    fill_random(d->payload, sizeof(d->payload), &state);
}

void driven_stop(struct driven *d)
{
    cbd_queue_free(d->queue);
    fixture_stop(&d->f);
}

struct cbd_channel_conf fresh_rings(struct driven *d, uint32_t channel, struct hand *hand)
{
    struct cbd_channel_conf conf = d->f.conf[channel];

    conf.epoch = ++d->epoch;
    CHECK_EQ(channel_init(&hand->ch, &d->f.mem, &conf), 0);
    ring_init(&hand->submissions, &hand->ch.map, hand->ch.submissions, DEPTH, conf.epoch);
    ring_init(&hand->completions, &hand->ch.map, hand->ch.completions, DEPTH, conf.epoch);
    return conf;
}

void start_queue(struct driven *d, struct hand *hand)
{
    struct cbd_channel_conf conf = fresh_rings(d, 0, hand);

    cbd_queue_free(d->queue);
    CHECK_EQ(cbd_queue_new(&d->f.mem, &conf, &d->queue), 0);
}

struct cbd_slot answer_to(struct driven *d, struct hand *hand, const struct cbd_slot *s)
{
    struct cbd_slot done = {.op = s->op, .tag = s->tag, .tid = s->tid, .offset = s->offset, .len = s->len,
                            .credit = (uint32_t)hand->submissions.seq};

    if (s->op == CBD_READ) {
        done.flags = CBD_SLOT_DATA_CRC;
        done.data_off = s->tag * SLOT_BYTES;
        done.data_len = s->len;
        done.data_crc = cxl_crc32c(0, d->payload, s->len);
        ring_put_payload(&hand->ch.map, hand->ch.responses + done.data_off, d->payload, s->len);
    }
    return done;
}

void answer(struct driven *d, struct hand *hand, const struct cbd_slot *s)
{
    struct cbd_slot done = answer_to(d, hand, s);

    ring_produce(&hand->completions, &done);
}

bool nothing_submitted(struct hand *hand)
{
    struct cbd_slot s;
    uint64_t rereads = 0;

    return ring_consume(&hand->submissions, &s, &rereads) == RING_EMPTY;
}

int poll_one(struct driven *d, struct cbd_completion *done)
{
    return cbd_queue_poll(d->queue, done, 1);
}

void expect(struct driven *d, uint64_t user, int32_t result)
{
    struct cbd_completion done;

    CHECK_EQ(poll_one(d, &done), 1);
    CHECK_EQ(done.user, user);
    CHECK_EQ(done.result, result);
}

void use_ring(struct driven *d, struct hand *hand)
{
    struct cbd_slot s[3];

    for (uint32_t i = 0; i < LAPS * DEPTH; i += 3) {
        for (uint32_t j = 0; j < 3; j++) {
            CHECK_EQ(cbd_queue_submit(d->queue, CBD_FLUSH, 0, 0, 0, NULL, j), 0);
            hand_consume(&hand->submissions, &s[j]);
        }
        for (uint32_t j = 0; j < 3; j++) { /* in an order of their own */
            answer(d, hand, &s[(j + i) % 3]);
            expect(d, (j + i) % 3, 0);
        }
    }
}

uint64_t bad_slots(const struct driven *d)
{
    struct cbd_stats stats;

    cbd_queue_stats(d->queue, &stats);
    return stats.bad_slots;
}
