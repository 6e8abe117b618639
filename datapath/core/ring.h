/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A ring of self-validating 64-byte slots with one producer and one consumer. There is no shared head or tail: the consumer polls
 * the slot of the next sequence number. The ring never looks whether the consumer keeps up; whoever produces must know from the
 * requests in flight that the slot is free (docs/cbd-format.md).
 */
#ifndef CXL_RING_H
#define CXL_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "cbd_format.h"
#include "mem.h"

struct ring {
    const struct mem_map *map;
    uint64_t off;     /* of slot 0 */
    uint32_t depth;   /* a power of two */
    uint32_t epoch;
    uint64_t seq;     /* last slot that was produced or consumed; 0: none */
    uint32_t rereads; /* consumer: how often the next slot failed its CRC */
};

enum ring_got {
    RING_EMPTY, /* nothing yet */
    RING_SLOT,  /* *slot is the next slot */
    RING_TORN,  /* the next slot is there but fails its CRC; call again */
    RING_BAD,   /* it kept failing and was given up: its content is unknown, its sequence number is ring->seq */
};

#define RING_REREADS_PER_CALL 8U
#define RING_REREADS_MAX 1024U

void ring_init(struct ring *ring, const struct mem_map *map, uint64_t off, uint32_t depth, uint32_t epoch);
/* Fills seq, epoch and slot_crc, and publishes. Payload must have left by ring_put_payload() before. */
void ring_produce(struct ring *ring, struct cbd_slot *slot);
/* Adds to *rereads each time a slot had to be read again. */
enum ring_got ring_consume(struct ring *ring, struct cbd_slot *slot, uint64_t *rereads);

/* A look from a distance, cheap where many rings are waited for: ring_peek_begin() of each, one fence for all, ring_peek() of each.
 * Whether something seems to be in the next slot; only ring_consume() knows. */
void ring_peek_begin(const struct ring *ring);
void ring_peek_fence(const struct ring *ring);
bool ring_peek(const struct ring *ring);

/* Payload of a slot, to and from shared memory; the caller checked the range. */
void ring_put_payload(const struct mem_map *map, uint64_t off, const void *src, uint32_t len);
/* The same, and returns the payload's CRC. */
uint32_t ring_put_payload_summed(const struct mem_map *map, uint64_t off, const void *src, uint32_t len);
/* The same for payload that is there already, by mem_window(). */
void ring_publish_payload(const struct mem_map *map, uint64_t off, uint32_t len);
void ring_get_payload(const struct mem_map *map, uint64_t off, void *dst, uint32_t len);
/* The same, and checks the CRC of the copy in *dst*; re-reads up to RING_PAYLOAD_REREADS times. -EIO when it never fits. */
#define RING_PAYLOAD_REREADS 64U
int ring_get_payload_checked(const struct mem_map *map, uint64_t off, void *dst, uint32_t len, uint32_t crc, uint64_t *rereads);

#endif
