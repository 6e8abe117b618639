/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The harness of the test programs: CHECK says where and what and ends the program; TEST names what is about to be tested.
 */
#ifndef CXL_TESTS_CHECK_H
#define CXL_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

#define CHECK_EQ(actual, expected) \
    do { \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected); \
        if (actual_ != expected_) { \
            fprintf(stderr, "%s:%d: %s is %lld, expected %s = %lld\n", __FILE__, __LINE__, #actual, actual_, #expected, \
                    expected_); \
            exit(1); \
        } \
    } while (0)

#define TEST(name) \
    do { \
        printf("- %s\n", name); \
        fflush(stdout); \
    } while (0)

/* For a machine that lacks what the program needs; ctest and pytest show it as skipped, with the reason. */
#define SKIP_CODE 77
#define SKIP(reason) \
    do { \
        printf("SKIP: %s\n", reason); \
        exit(SKIP_CODE); \
    } while (0)

/* Deterministic: a failure repeats. */
static inline uint64_t rng(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ULL;

    uint64_t z = *state;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

static inline void fill_random(void *buf, size_t len, uint64_t *state)
{
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)rng(state);
}

#endif
