/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Counters that one thread adds to and another may read at any time.
 */
#ifndef CXL_STATS_H
#define CXL_STATS_H

#include <stdatomic.h>

#include "cxl_core.h"

struct stats {
    _Atomic uint64_t submitted, requests, bytes_read, bytes_written, errors, bad_slots, crc_retries;
};

static inline void stats_count(_Atomic uint64_t *counter, uint64_t n)
{
    /* No locked instruction: nobody else adds. */
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* One finished request. */
static inline void stats_request(struct stats *s, uint32_t op, uint32_t len, int32_t result)
{
    stats_count(&s->requests, 1);
    if (result)
        stats_count(&s->errors, 1);
    else if (op == CBD_READ)
        stats_count(&s->bytes_read, len);
    else if (op == CBD_WRITE)
        stats_count(&s->bytes_written, len);
}

/* Adds s to *sum. */
static inline void stats_sum(const struct stats *s, struct cbd_stats *sum)
{
    sum->submitted += atomic_load_explicit(&s->submitted, memory_order_relaxed);
    sum->requests += atomic_load_explicit(&s->requests, memory_order_relaxed);
    sum->bytes_read += atomic_load_explicit(&s->bytes_read, memory_order_relaxed);
    sum->bytes_written += atomic_load_explicit(&s->bytes_written, memory_order_relaxed);
    sum->errors += atomic_load_explicit(&s->errors, memory_order_relaxed);
    sum->bad_slots += atomic_load_explicit(&s->bad_slots, memory_order_relaxed);
    sum->crc_retries += atomic_load_explicit(&s->crc_retries, memory_order_relaxed);
}

#endif
