/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the front ends of the core need of a queue beyond cxl_core.h.
 */
#ifndef CXL_QUEUE_H
#define CXL_QUEUE_H

#include <stdint.h>

#include "cxl_core.h"

/* Forgets the buffers of the requests in flight that were submitted with this user value: they will be neither written nor
 * reported. Their tags stay in use until the backend answers, because it may still be using the data slots. */
void cbd_queue_abandon(struct cbd_queue *q, uint64_t user);

/* Adds the counters to *sum; unlike cbd_queue_stats() from any thread. */
void cbd_queue_sum_stats(const struct cbd_queue *q, struct cbd_stats *sum);

#endif
