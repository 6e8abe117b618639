/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ring.h"

#include <errno.h>
#include <string.h>

#include "crc.h"

#define SUMMED_TOGETHER 16384U /* bytes, twice of which fit into a first-level cache */
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

/* The words of a slot, put together in registers: to read them from fields that were stored a moment ago, each smaller than a word,
 * makes the CPU wait until those have reached its cache. */
static void slot_pack(const struct cbd_slot *s, uint64_t words[SLOT_WORDS])
{
    words[0] = s->seq;
    words[1] = s->epoch | (uint64_t)s->op << 32 | (uint64_t)s->flags << 40 | (uint64_t)s->tag << 48;
    words[2] = s->tid;
    words[3] = s->offset;
    words[4] = s->len | (uint64_t)s->data_off << 32;
    words[5] = s->data_len | (uint64_t)(uint32_t)s->result << 32;
    words[6] = s->data_crc | (uint64_t)s->credit << 32;
    words[7] = s->reserved;
    words[7] |= (uint64_t)cxl_crc32c(0, words, offsetof(struct cbd_slot, slot_crc)) << 32;
}

/* seq goes last: on coherent memory a reader that sees it sees the rest, and a line that leaves the cache half-way is an old slot. */
static void slot_store(const struct mem_map *map, uint64_t off, const uint64_t words[SLOT_WORDS])
{
    for (size_t i = SLOT_WORDS; i-- > 0;)
        mem_store64(map, off + i * sizeof(uint64_t), words[i]);
}

/* seq goes first, for the same reason: without the wanted one the rest is not worth a load. Each word is loaded once; everything
 * that is checked and used is the private copy. */
static bool slot_load(const struct mem_map *map, uint64_t off, uint64_t seq, struct cbd_slot *slot)
{
    slot->seq = mem_load64(map, off);
    if (slot->seq != seq)
        return false;
    for (size_t i = 1; i < SLOT_WORDS; i++) {
        uint64_t word = mem_load64(map, off + i * sizeof(word));

        memcpy((uint8_t *)slot + i * sizeof(word), &word, sizeof(word));
    }
    return true;
}

void ring_produce(struct ring *ring, struct cbd_slot *slot)
{
    uint64_t off = slot_off(ring, ring->seq + 1);
    uint64_t words[SLOT_WORDS];

    slot->seq = ring->seq + 1;
    slot->epoch = ring->epoch;
    slot_pack(slot, words);
    slot->slot_crc = (uint32_t)(words[SLOT_WORDS - 1] >> 32);
    slot_store(ring->map, off, words);
    mem_clean(ring->map, MEM_SITE_SLOT_CLEAN, off, sizeof(*slot));
    mem_store_fence(ring->map, MEM_SITE_SLOT_FENCE);
    ring->seq++;
}

void ring_peek_begin(const struct ring *ring)
{
    mem_invalidate(ring->map, MEM_SITE_SLOT_INVALIDATE, slot_off(ring, ring->seq + 1), sizeof(struct cbd_slot));
}

void ring_peek_fence(const struct ring *ring)
{
    mem_load_fence(ring->map, MEM_SITE_SLOT_LOAD_FENCE);
}

static enum ring_got look(const struct ring *ring, struct cbd_slot *slot)
{
    uint64_t off = slot_off(ring, ring->seq + 1);

    ring_peek_begin(ring);
    ring_peek_fence(ring);
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

/* The bytes that are copied and summed in one go: near enough to the CPU to be read twice at the price of once. */
static uint32_t piece_of(uint32_t left)
{
    return left < SUMMED_TOGETHER ? left : SUMMED_TOGETHER;
}

uint32_t ring_put_payload_summed(const struct mem_map *map, uint64_t off, const void *src, uint32_t len)
{
    const uint8_t *from = src;
    uint32_t crc = 0;

    for (uint32_t done = 0, piece; done < len; done += piece) {
        piece = piece_of(len - done);
        crc = cxl_crc32c(crc, from + done, piece);
        mem_copy_in(map, off + done, from + done, piece);
    }
    publish(map, off, len);
    return crc;
}

void ring_publish_payload(const struct mem_map *map, uint64_t off, uint32_t len)
{
    mem_window_close(map, off, len);
    publish(map, off, len);
}

static void forget(const struct mem_map *map, uint64_t off, uint32_t len)
{
    mem_invalidate(map, MEM_SITE_PAYLOAD_INVALIDATE, off, len);
    mem_load_fence(map, MEM_SITE_PAYLOAD_LOAD_FENCE);
}

void ring_get_payload(const struct mem_map *map, uint64_t off, void *dst, uint32_t len)
{
    forget(map, off, len);
    mem_copy_out(map, dst, off, len);
}

/* Returns the CRC of the copy, which nobody else can change. */
static uint32_t get_summed(const struct mem_map *map, uint64_t off, uint8_t *dst, uint32_t len)
{
    uint32_t crc = 0;

    forget(map, off, len);
    for (uint32_t done = 0, piece; done < len; done += piece) {
        piece = piece_of(len - done);
        mem_copy_out(map, dst + done, off + done, piece);
        crc = cxl_crc32c(crc, dst + done, piece);
    }
    return crc;
}

int ring_get_payload_checked(const struct mem_map *map, uint64_t off, void *dst, uint32_t len, uint32_t crc, uint64_t *rereads)
{
    for (unsigned i = 0; i <= RING_PAYLOAD_REREADS; i++) {
        if (i)
            ++*rereads;
        if (get_summed(map, off, dst, len) == crc)
            return 0;
    }
    return -EIO;
}
