/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Durations in a histogram whose buckets are at most 1/128 wide: constant memory and cost for any number of samples.
 */
#ifndef CXL_BENCH_SAMPLES_H
#define CXL_BENCH_SAMPLES_H

#include <stdint.h>

#define SAMPLES_SUB 128U                       /* buckets per power of two */
#define SAMPLES_BUCKETS (SAMPLES_SUB * 58U)    /* all of 64 bits */

struct samples {
    uint64_t count;
    uint64_t buckets[SAMPLES_BUCKETS];
};

void samples_add(struct samples *samples, uint64_t ns);
/* Adds all of `from`. */
void samples_merge(struct samples *samples, const struct samples *from);
/* The duration that `percent` of the samples do not exceed; 0 without samples. */
double samples_percentile(const struct samples *samples, double percent);

#endif
