/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the front ends of the core need of a queue beyond cxl_core.h.
 */
#ifndef CXL_QUEUE_H
#define CXL_QUEUE_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "cxl_core.h"
#include "protocol.h"

/* Forgets the buffers of the requests in flight that were submitted with this user value: they will be neither written nor
 * reported. Their tags stay in use until the backend answers, because it may still be using the data slots. */
void cbd_queue_abandon(struct cbd_queue *q, uint64_t user);

/* The first channel whose offset an earlier one has, too; count when there is none. */
uint32_t cbd_channels_twice(const struct cbd_channel_conf *channels, uint32_t count);

/* What cbd_queue_rebind() would say. */
int cbd_queue_check_rebind(const struct cbd_queue *q, const struct cbd_channel_conf *channel);

/* Touches its rings no more until a rebind: what is in flight waits, and submissions find the queue full. Where several queues
 * change places, all of them are held first, for two must never be on one channel. */
void cbd_queue_hold(struct cbd_queue *q);

/* Whether a queue may be offline with it: -EAGAIN is how a queue says that it is full. */
static inline bool cbd_queue_error_ok(int32_t error)
{
    return error < 0 && error >= -CBD_MAX_ERRNO && error != -EAGAIN;
}

/* Adds the counters to *sum; unlike cbd_queue_stats() from any thread. */
void cbd_queue_sum_stats(const struct cbd_queue *q, struct cbd_stats *sum);

#endif
