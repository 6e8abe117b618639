/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A real queue whose backend is driven by hand, on one set of rings after the other.
 */
#ifndef CXL_TESTS_DRIVEN_H
#define CXL_TESTS_DRIVEN_H

#include "fixture.h"

struct driven {
    struct fixture f;
    struct cbd_queue *queue;
    uint32_t epoch; /* the highest in use; none is used twice */
    uint8_t payload[SLOT_BYTES]; /* what reads get */
};

/* The fixture without handlers. */
void driven_start(struct driven *d, enum cxl_coherence coherence);
void driven_stop(struct driven *d);

/* Fresh rings on a channel, and their hand-driven end. */
struct cbd_channel_conf fresh_rings(struct driven *d, uint32_t channel, struct hand *hand);
/* Another queue, on fresh rings of channel 0. */
void start_queue(struct driven *d, struct hand *hand);

/* An honest answer, not yet sent; and sent. */
struct cbd_slot answer_to(struct driven *d, struct hand *hand, const struct cbd_slot *s);
void answer(struct driven *d, struct hand *hand, const struct cbd_slot *s);
bool nothing_submitted(struct hand *hand);

int poll_one(struct driven *d, struct cbd_completion *done);
/* The next completion, which must be there and be this one. */
void expect(struct driven *d, uint64_t user, int32_t result);
/* Requests that come and go, so that tags and numbers of what follows are neither in order nor small. */
void use_ring(struct driven *d, struct hand *hand);
uint64_t bad_slots(const struct driven *d);

#endif
