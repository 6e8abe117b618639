/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A handler serves the submissions of one channel in its own thread. It takes them in their order; with io_uring they end in any.
 */
#ifndef CXL_HANDLER_H
#define CXL_HANDLER_H

#include <stdatomic.h>

#include "cxl_core.h"
#include "device.h"
#include "fence.h"
#include "lookout.h"

struct handler;

/* What the handlers of a backend have in common; it outlives them. */
struct handler_shared {
    struct cxl_mem mem;
    struct device dev;
    struct fence fence;
    struct cbd_idle_conf idle;
    struct lookout lookout;
    enum cbd_engine engine;
    atomic_bool fenced; /* set by the handler that finds the fence; that one ends then */
};

int handler_start(struct handler_shared *shared, const struct cbd_channel_conf *conf, struct handler **out);
/* Returns when what it took is answered (unless fenced) and the thread is gone. */
void handler_stop(struct handler *h);
/* Only after handler_stop(). */
void handler_free(struct handler *h);

/* The same without a thread, for who has the turns made in an order of his own: new, turns until one says that it has ended, free.
 * handler_finish(): it takes nothing more, and ends once what it took is answered. */
enum handler_did { HANDLER_IDLED, HANDLER_WORKED, HANDLER_ENDED };
int handler_new(struct handler_shared *shared, const struct cbd_channel_conf *conf, struct handler **out);
enum handler_did handler_turn(struct handler *h);
void handler_finish(struct handler *h);

uint64_t handler_channel_off(const struct handler *h);
/* Adds the counters to *sum; from any thread. */
void handler_sum_stats(const struct handler *h, struct cbd_stats *sum);

#endif
