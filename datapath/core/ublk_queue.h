/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One hardware queue of a ublk device: a thread between the driver's commands and one channel.
 */
#ifndef CXL_UBLK_QUEUE_H
#define CXL_UBLK_QUEUE_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "cxl_core.h"
#include "order.h"

struct ublk_queue;

#define UBLK_PATIENCE_S 5U

/* Allocates; nothing of the driver is touched yet. */
int ublk_queue_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channel, const struct cbd_idle_conf *idle,
                   uint16_t q_id, struct ublk_queue **out);
/* Whether the backend answers at all: a device on a silent one would hang whoever looks at it, the kernel's partition scan first.
 * Before ublk_queue_start(). -ETIMEDOUT after UBLK_PATIENCE_S. */
int ublk_queue_probe(struct ublk_queue *q, uint32_t logical_block_size);
/* Starts the thread on the open character device, and on these CPUs (NULL: any); returns when the driver holds a fetch command for
 * each tag. After an error the thread may still run: it ends when the device is stopped, like any other. */
int ublk_queue_start(struct ublk_queue *q, int char_fd, const cpu_set_t *cpus);
/* While a device starts and stops, the kernel waits for our I/O in places that nothing can interrupt. An impatient queue gives up on
 * a backend that is silent for UBLK_PATIENCE_S: it goes offline with -EIO. */
void ublk_queue_set_impatient(struct ublk_queue *q, bool impatient);
bool ublk_queue_gave_up(const struct ublk_queue *q);
int ublk_queue_check_rebind(const struct ublk_queue *q, const struct cbd_channel_conf *channel);
/* Returns when the thread of the queue has carried it out; -ENODEV when the device is gone. */
int ublk_queue_order(struct ublk_queue *q, const struct order *order);
/* Waits for the end of the thread, which the stop of the device brings about, and unmaps what belongs to the character device. */
void ublk_queue_join(struct ublk_queue *q);
void ublk_queue_free(struct ublk_queue *q);
/* Adds the counters to *sum; from any thread. */
void ublk_queue_sum_stats(const struct ublk_queue *q, struct cbd_stats *sum);

#endif
