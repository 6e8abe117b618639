/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Queues that many threads share: each call runs one request of any length to its end, split into pieces that are in flight
 * together, next to the pieces of other calls.
 */
#ifndef CXL_POOL_H
#define CXL_POOL_H

#include <stdint.h>

#include "cxl_core.h"

struct pool;

/* sleep: sleeps for ns; anything but 0 means that the caller should give up now. */
typedef int (*pool_sleep)(uint64_t ns);

/* -EINVAL, -ERANGE: as cbd_queue_new(); the channels differ in nothing but offset and epoch. */
int pool_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, uint32_t count, pool_sleep sleep,
             struct pool **out);
/* Returns 0 or a negated errno; -ESHUTDOWN when sleep told to give up. In no case is buf touched after the return. */
int pool_run(struct pool *pool, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, void *buf);

/* The following are for any thread, while calls are under way: these go on by themselves. */

/* cbd_queue_rebind() of every queue; count as at the start. On an error no queue has changed. */
int pool_rebind(struct pool *pool, const struct cbd_channel_conf *channels, uint32_t count);
/* cbd_queue_set_offline() of every queue. */
void pool_set_offline(struct pool *pool, int32_t error);
/* Adds the counters of all queues to *sum. */
void pool_sum_stats(const struct pool *pool, struct cbd_stats *sum);

/* No call may be under way. */
void pool_free(struct pool *pool);

#endif
