/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Claims of heads on blocks. A block has two words: one bit at most in the exclusive one, any number in the shared one, and never
 * bits in both once the calls have returned. An exclusive claim is a compare-and-swap from zero, so one of many wins. Claims of
 * different kinds each set their own word first and look at the other one then; in the one order of all these accesses at least
 * one of two sees the other and takes its bit back.
 */
#include <errno.h>
#include <stdbool.h>

#include "cxl_core.h"

#define WORD_OPS(type, bits) \
    static bool swap_zero_##bits(void *word, uint64_t bit, uint64_t *seen) \
    { \
        type old = 0; \
        bool won = __atomic_compare_exchange_n((type *)word, &old, (type)bit, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
\
        *seen = old; \
        return won; \
    } \
    static uint64_t set_##bits(void *word, uint64_t bit) \
    { \
        return __atomic_fetch_or((type *)word, (type)bit, __ATOMIC_SEQ_CST); \
    } \
    static uint64_t clear_##bits(void *word, uint64_t bit) \
    { \
        return __atomic_fetch_and((type *)word, (type)~bit, __ATOMIC_SEQ_CST); \
    } \
    static uint64_t load_##bits(const void *word) \
    { \
        return __atomic_load_n((const type *)word, __ATOMIC_SEQ_CST); \
    }

WORD_OPS(uint8_t, 8)
WORD_OPS(uint16_t, 16)
WORD_OPS(uint32_t, 32)
WORD_OPS(uint64_t, 64)

struct word_ops {
    bool (*swap_zero)(void *word, uint64_t bit, uint64_t *seen);
    uint64_t (*set)(void *word, uint64_t bit);
    uint64_t (*clear)(void *word, uint64_t bit);
    uint64_t (*load)(const void *word);
};

#define OPS(bits) {swap_zero_##bits, set_##bits, clear_##bits, load_##bits}

static const struct word_ops *ops_of(uint32_t word_bytes)
{
    static const struct word_ops ops[] = {OPS(8), OPS(16), OPS(32), OPS(64)};

    switch (word_bytes) {
    case 1:
        return &ops[0];
    case 2:
        return &ops[1];
    case 4:
        return &ops[2];
    case 8:
        return &ops[3];
    default:
        return NULL;
    }
}

static bool array_fits(const struct mhsld_map *map, uint64_t off)
{
    return off % map->word_bytes == 0 && off <= map->len && map->blocks <= (map->len - off) / map->word_bytes;
}

static int check(const struct mhsld_map *map, uint32_t head, uint64_t first, uint64_t count)
{
    if (!map || !map->base || !ops_of(map->word_bytes) || head >= map->word_bytes * 8)
        return -EINVAL;
    if (!array_fits(map, map->exclusive_off) || !array_fits(map, map->shared_off))
        return -EINVAL;
    return first <= map->blocks && count <= map->blocks - first ? 0 : -ERANGE;
}

static void *exclusive_of(const struct mhsld_map *map, uint64_t block)
{
    return map->base + map->exclusive_off + block * map->word_bytes;
}

static void *shared_of(const struct mhsld_map *map, uint64_t block)
{
    return map->base + map->shared_off + block * map->word_bytes;
}

/* 0, or the negated errno with the holders seen. */
static int claim_exclusive(const struct word_ops *ops, void *exclusive, void *shared, uint64_t bit, uint64_t *holders)
{
    *holders = ops->load(shared);
    if (*holders)
        return -EBUSY;
    if (!ops->swap_zero(exclusive, bit, holders))
        return -EBUSY;
    *holders = ops->load(shared);
    if (!*holders)
        return 0;
    ops->clear(exclusive, bit);
    return -EAGAIN;
}

static int claim_shared(const struct word_ops *ops, void *exclusive, void *shared, uint64_t bit, uint64_t *holders)
{
    *holders = ops->load(exclusive);
    if (*holders)
        return -EBUSY;
    *holders = ops->set(shared, bit);
    if (*holders & bit)
        return -EBUSY;
    *holders = ops->load(exclusive);
    if (!*holders)
        return 0;
    ops->clear(shared, bit);
    return -EAGAIN;
}

int mhsld_claim(const struct mhsld_map *map, uint32_t head, uint64_t first, uint64_t count, uint32_t shared,
                struct mhsld_conflict *conflict)
{
    int err = check(map, head, first, count);

    if (err)
        return err;

    const struct word_ops *ops = ops_of(map->word_bytes);
    uint64_t bit = UINT64_C(1) << head;

    for (uint64_t block = first; block < first + count; block++) {
        conflict->block = block;
        err = (shared ? claim_shared : claim_exclusive)(ops, exclusive_of(map, block), shared_of(map, block), bit,
                                                        &conflict->holders);
        if (!err)
            continue;
        while (block-- > first)
            ops->clear(shared ? shared_of(map, block) : exclusive_of(map, block), bit);
        return err;
    }
    return 0;
}

int mhsld_release(const struct mhsld_map *map, uint32_t head, uint64_t first, uint64_t count, uint64_t *released)
{
    int err = check(map, head, first, count);

    if (err)
        return err;

    const struct word_ops *ops = ops_of(map->word_bytes);
    uint64_t bit = UINT64_C(1) << head;

    *released = 0;
    for (uint64_t block = first; block < first + count; block++) {
        uint64_t had = ops->clear(exclusive_of(map, block), bit);

        had |= ops->clear(shared_of(map, block), bit);
        *released += (had & bit) != 0;
    }
    return 0;
}

int mhsld_read(const struct mhsld_map *map, uint64_t first, uint64_t count, uint64_t *exclusive, uint64_t *shared)
{
    int err = check(map, 0, first, count);

    if (err)
        return err;

    const struct word_ops *ops = ops_of(map->word_bytes);

    for (uint64_t i = 0; i < count; i++) {
        exclusive[i] = ops->load(exclusive_of(map, first + i));
        shared[i] = ops->load(shared_of(map, first + i));
    }
    return 0;
}
