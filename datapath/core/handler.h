/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A handler serves the submissions of one channel, in their order, in its own thread.
 */
#ifndef CXL_HANDLER_H
#define CXL_HANDLER_H

#include "cxl_core.h"
#include "device.h"

struct handler;

int handler_start(const struct cxl_mem *mem, const struct cbd_channel_conf *conf, const struct device *dev,
                  const struct cbd_idle_conf *idle, struct handler **out);
/* Returns when the request in hand is answered and the thread is gone. */
void handler_stop(struct handler *h);
/* Only after handler_stop(). */
void handler_free(struct handler *h);
uint64_t handler_channel_off(const struct handler *h);
/* Adds the counters to *sum; from any thread. */
void handler_sum_stats(const struct handler *h, struct cbd_stats *sum);

#endif
