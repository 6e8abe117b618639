/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ring.h"

#include <errno.h>
#include <string.h>

#include "crc.h"

#define SLOT_WORDS (sizeof(struct cbd_slot) / sizeof(uint64_t))

void ring_init(struct ring *ring, const struct mem_map *map, uint64_t off, uint32_t depth, uint32_t epoch)
{
    *ring = (struct ring){.map = map, .off = off, .depth = depth, .epoch = epoch};
}

static uint64_t slot_off(const struct ring *ring, uint64_t seq)
{
    return ring->off + ((seq - 1) & (ring->depth - 1)) * sizeof(struct cbd_slot);
}

static uint32_t slot_crc(const struct cbd_slot *slot)
{
    return cxl_crc32c(0, slot, offsetof(struct cbd_slot, slot_crc));
}

/* seq goes last: on coherent memory a reader that sees it sees the rest, and a line that leaves the cache half-way is an old slot. */
static void slot_store(const struct mem_map *map, uint64_t off, const struct cbd_slot *slot)
{
    uint64_t words[SLOT_WORDS];

    memcpy(words, slot, sizeof(words));
    for (size_t i = SLOT_WORDS; i-- > 0;)
        mem_store64(map, off + i * sizeof(uint64_t), words[i]);
}

/* seq goes first, for the same reason: without the wanted one the rest is not worth a load. Each word is loaded once; everything
 * that is checked and used is the private copy. */
static bool slot_load(const struct mem_map *map, uint64_t off, uint64_t seq, struct cbd_slot *slot)
{
    uint64_t words[SLOT_WORDS];

    words[0] = mem_load64(map, off);
    if (words[0] != seq)
        return false;
    for (size_t i = 1; i < SLOT_WORDS; i++)
        words[i] = mem_load64(map, off + i * sizeof(uint64_t));
    memcpy(slot, words, sizeof(words));
    return true;
}

void ring_produce(struct ring *ring, struct cbd_slot *slot)
{
    uint64_t off = slot_off(ring, ring->seq + 1);

    slot->seq = ring->seq + 1;
    slot->epoch = ring->epoch;
    slot->slot_crc = slot_crc(slot);
    slot_store(ring->map, off, slot);
    mem_clean(ring->map, MEM_SITE_SLOT_CLEAN, off, sizeof(*slot));
    mem_store_fence(ring->map, MEM_SITE_SLOT_FENCE);
    ring->seq++;
}

static enum ring_got look(const struct ring *ring, struct cbd_slot *slot)
{
    uint64_t off = slot_off(ring, ring->seq + 1);

    mem_invalidate(ring->map, MEM_SITE_SLOT_INVALIDATE, off, sizeof(*slot));
    mem_load_fence(ring->map, MEM_SITE_SLOT_LOAD_FENCE);
    /* Anything else than our next number is what was in the memory before: an older lap, another epoch, never written. */
    if (!slot_load(ring->map, off, ring->seq + 1, slot) || slot->epoch != ring->epoch)
        return RING_EMPTY;
    return slot->slot_crc == slot_crc(slot) ? RING_SLOT : RING_TORN;
}

static void advance(struct ring *ring)
{
    ring->seq++;
    ring->rereads = 0;
}

enum ring_got ring_consume(struct ring *ring, struct cbd_slot *slot, uint64_t *rereads)
{
    for (unsigned i = 0; i < RING_REREADS_PER_CALL; i++) {
        enum ring_got got = look(ring, slot);

        if (got == RING_SLOT)
            advance(ring);
        if (got != RING_TORN)
            return got;
        ++*rereads;
        if (++ring->rereads >= RING_REREADS_MAX) {
            advance(ring);
            return RING_BAD;
        }
    }
    return RING_TORN;
}

void ring_peek_begin(const struct ring *ring)
{
    mem_invalidate(ring->map, MEM_SITE_PEEK_INVALIDATE, slot_off(ring, ring->seq + 1), sizeof(struct cbd_slot));
}

void ring_peek_fence(const struct ring *ring)
{
    mem_load_fence(ring->map, MEM_SITE_PEEK_LOAD_FENCE);
}

bool ring_peek(const struct ring *ring)
{
    uint64_t off = slot_off(ring, ring->seq + 1);

    if (mem_load64(ring->map, off) != ring->seq + 1)
        return false;
    return (uint32_t)mem_load64(ring->map, off + offsetof(struct cbd_slot, epoch)) == ring->epoch;
}

static void publish(const struct mem_map *map, uint64_t off, uint32_t len)
{
    mem_clean(map, MEM_SITE_PAYLOAD_CLEAN, off, len);
    mem_store_fence(map, MEM_SITE_PAYLOAD_FENCE);
}

void ring_put_payload(const struct mem_map *map, uint64_t off, const void *src, uint32_t len)
{
    mem_copy_in(map, off, src, len);
    publish(map, off, len);
}

void ring_publish_payload(const struct mem_map *map, uint64_t off, uint32_t len)
{
    mem_window_close(map, off, len);
    publish(map, off, len);
}

void ring_get_payload(const struct mem_map *map, uint64_t off, void *dst, uint32_t len)
{
    mem_invalidate(map, MEM_SITE_PAYLOAD_INVALIDATE, off, len);
    mem_load_fence(map, MEM_SITE_PAYLOAD_LOAD_FENCE);
    mem_copy_out(map, dst, off, len);
}

int ring_get_payload_checked(const struct mem_map *map, uint64_t off, void *dst, uint32_t len, uint32_t crc, uint64_t *rereads)
{
    for (unsigned i = 0; i <= RING_PAYLOAD_REREADS; i++) {
        if (i)
            ++*rereads;
        ring_get_payload(map, off, dst, len);
        if (cxl_crc32c(0, dst, len) == crc)
            return 0;
    }
    return -EIO;
}
