/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "samples.h"

/* Below 2 * SAMPLES_SUB each value has its own bucket; above, the highest eight bits choose it. */
static uint32_t bucket_of(uint64_t ns)
{
    uint32_t shift = ns < 2 * SAMPLES_SUB ? 0 : 56U - (uint32_t)__builtin_clzll(ns);

    return shift * SAMPLES_SUB + (uint32_t)(ns >> shift);
}

static double middle_of(uint32_t bucket)
{
    uint32_t shift = bucket < 2 * SAMPLES_SUB ? 0 : bucket / SAMPLES_SUB - 1;
    uint64_t low = (uint64_t)(bucket - shift * SAMPLES_SUB) << shift;

    return (double)low + (double)((1ULL << shift) - 1) / 2;
}

void samples_add(struct samples *samples, uint64_t ns)
{
    samples->buckets[bucket_of(ns)]++;
    samples->count++;
}

void samples_merge(struct samples *samples, const struct samples *from)
{
    for (uint32_t i = 0; i < SAMPLES_BUCKETS; i++)
        samples->buckets[i] += from->buckets[i];
    samples->count += from->count;
}

double samples_percentile(const struct samples *samples, double percent)
{
    double wanted = percent / 100 * (double)samples->count;
    uint64_t seen = 0;

    for (uint32_t i = 0; i < SAMPLES_BUCKETS; i++) {
        seen += samples->buckets[i];
        if (seen && (double)seen >= wanted)
            return middle_of(i);
    }
    return 0;
}
