/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Claims on blocks: what each call answers, for each width; and 64 threads that fight for few blocks, of both kinds.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "check.h"
#include "cxl_core.h"

#define BLOCKS 12U
#define GUARD 0xa5
#define ROUNDS 3000U

static _Alignas(64) uint8_t bytes[64 + 2 * BLOCKS * 8 + 64];

static struct mhsld_map map_of(uint32_t word_bytes)
{
    memset(bytes, GUARD, sizeof(bytes));
    memset(bytes + 64, 0, 2 * (size_t)BLOCKS * word_bytes);
    return (struct mhsld_map){.base = bytes,
                              .len = 64 + 2 * (uint64_t)BLOCKS * word_bytes,
                              .exclusive_off = 64,
                              .shared_off = 64 + (uint64_t)BLOCKS * word_bytes,
                              .blocks = BLOCKS,
                              .word_bytes = word_bytes};
}

static void check_guards(const struct mhsld_map *map)
{
    for (size_t i = 0; i < sizeof(bytes); i++) {
        if (i < 64 || i >= map->len)
            CHECK_EQ(bytes[i], GUARD);
    }
}

static void test_answers(uint32_t word_bytes)
{
    struct mhsld_map map = map_of(word_bytes);
    uint32_t last = word_bytes * 8 - 1;
    struct mhsld_conflict conflict;
    uint64_t released, exclusive[BLOCKS], shared[BLOCKS];

    CHECK_EQ(mhsld_claim(&map, last, 2, 4, 0, &conflict), 0);
    /* Another head runs into the middle: nothing of its claim stays. */
    CHECK_EQ(mhsld_claim(&map, 0, 0, 4, 0, &conflict), -EBUSY);
    CHECK_EQ(conflict.block, 2);
    CHECK(conflict.holders == UINT64_C(1) << last);
    CHECK_EQ(mhsld_claim(&map, 0, 0, 3, 1, &conflict), -EBUSY);
    CHECK_EQ(mhsld_claim(&map, last, 5, 1, 0, &conflict), -EBUSY); /* its own */
    CHECK_EQ(mhsld_read(&map, 0, BLOCKS, exclusive, shared), 0);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        CHECK(exclusive[i] == (i >= 2 && i < 6 ? UINT64_C(1) << last : 0));
        CHECK_EQ(shared[i], 0);
    }
    /* Shared ones stand beside each other, an exclusive one not beside them. */
    CHECK_EQ(mhsld_claim(&map, 1, 8, 2, 1, &conflict), 0);
    CHECK_EQ(mhsld_claim(&map, 2, 9, 2, 1, &conflict), 0);
    CHECK_EQ(mhsld_claim(&map, 1, 10, 1, 1, &conflict), 0);
    CHECK_EQ(mhsld_claim(&map, 1, 7, 3, 1, &conflict), -EBUSY); /* 8 is its own; 7 is given back */
    CHECK_EQ(conflict.block, 8);
    CHECK_EQ(mhsld_claim(&map, 3, 7, 5, 0, &conflict), -EBUSY);
    CHECK_EQ(mhsld_read(&map, 7, 5, exclusive, shared), 0);
    CHECK(shared[0] == 0 && shared[1] == 2 && shared[2] == 6 && shared[3] == 6 && shared[4] == 0);
    CHECK_EQ(mhsld_release(&map, 1, 0, BLOCKS, &released), 0);
    CHECK_EQ(released, 3);
    CHECK_EQ(mhsld_release(&map, last, 3, 1, &released), 0);
    CHECK_EQ(released, 1);
    CHECK_EQ(mhsld_claim(&map, 0, 3, 1, 0, &conflict), 0);
    CHECK_EQ(mhsld_claim(&map, 0, 4, 0, 0, &conflict), 0);
    check_guards(&map);
}

static void test_refusals(void)
{
    struct mhsld_map map = map_of(2), bad;
    struct mhsld_conflict conflict;
    uint64_t released, word;

    CHECK_EQ(mhsld_claim(&map, 16, 0, 1, 0, &conflict), -EINVAL);
    CHECK_EQ(mhsld_claim(&map, 0, BLOCKS, 1, 0, &conflict), -ERANGE);
    CHECK_EQ(mhsld_claim(&map, 0, UINT64_MAX, 2, 0, &conflict), -ERANGE);
    CHECK_EQ(mhsld_release(&map, 0, 1, UINT64_MAX, &released), -ERANGE);
    CHECK_EQ(mhsld_read(&map, 0, BLOCKS + 1, &word, &word), -ERANGE);
    bad = map, bad.word_bytes = 3;
    CHECK_EQ(mhsld_claim(&bad, 0, 0, 1, 0, &conflict), -EINVAL);
    bad = map, bad.shared_off = map.len;
    CHECK_EQ(mhsld_claim(&bad, 0, 0, 1, 0, &conflict), -EINVAL);
    bad = map, bad.exclusive_off = 65;
    CHECK_EQ(mhsld_claim(&bad, 0, 0, 1, 0, &conflict), -EINVAL);
    bad = map, bad.blocks = UINT64_MAX / 2;
    CHECK_EQ(mhsld_claim(&bad, 0, 0, 1, 0, &conflict), -EINVAL);
    check_guards(&map);
}

/* ---- many heads, few blocks ---------------------------------------------------------------------------------------- */

#define HEADS 64U

static struct mhsld_map contested;
static atomic_int owners[BLOCKS], sharers[BLOCKS];
static atomic_uint wins;

static void *fight(void *arg)
{
    uint32_t head = (uint32_t)(uintptr_t)arg;
    uint64_t state = head, released;
    struct mhsld_conflict conflict;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        uint64_t first = rng(&state) % BLOCKS, count = 1 + rng(&state) % (BLOCKS - first);
        uint32_t shared = rng(&state) % 2;
        int err = mhsld_claim(&contested, head, first, count, shared, &conflict);

        if (err) {
            CHECK(err == -EBUSY || err == -EAGAIN);
            CHECK(!(conflict.holders >> head & 1)); /* it has nothing between its rounds */
            continue;
        }
        wins++;
        for (uint64_t block = first; block < first + count; block++) {
            if (shared)
                CHECK(++sharers[block] > 0 && owners[block] == 0);
            else
                CHECK(++owners[block] == 1 && sharers[block] == 0);
        }
        for (uint64_t block = first; block < first + count; block++)
            (shared ? sharers : owners)[block]--;
        CHECK_EQ(mhsld_release(&contested, head, first, count, &released), 0);
        CHECK_EQ(released, count); /* nobody took one away */
    }
    return NULL;
}

static void test_many_heads(void)
{
    pthread_t threads[HEADS];
    uint64_t exclusive[BLOCKS], shared[BLOCKS];

    contested = map_of(8);
    for (uintptr_t head = 0; head < HEADS; head++)
        CHECK_EQ(pthread_create(&threads[head], NULL, fight, (void *)head), 0);
    for (uint32_t head = 0; head < HEADS; head++)
        CHECK_EQ(pthread_join(threads[head], NULL), 0);
    CHECK(wins > 0);
    CHECK_EQ(mhsld_read(&contested, 0, BLOCKS, exclusive, shared), 0);
    for (uint32_t i = 0; i < BLOCKS; i++)
        CHECK(exclusive[i] == 0 && shared[i] == 0);
}

int main(void)
{
    for (uint32_t word_bytes = 1; word_bytes <= 8; word_bytes *= 2) {
        TEST("answers");
        test_answers(word_bytes);
    }
    TEST("refusals");
    test_refusals();
    TEST("many heads");
    test_many_heads();
    return 0;
}
