/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Inside of the engine of a LUN: lun.c is its thread, lun_api.c what others may ask of it.
 */
#ifndef CXL_LUN_ENGINE_H
#define CXL_LUN_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine.h"
#include "idle.h"
#include "lun_context.h"

#define LUN_IN_FLIGHT 256U /* of all contexts together */

struct lun_request {
    struct lun_context *context;
    struct cxlflash_command cmd; /* private copy that passed every check */
    uint64_t done;               /* bytes */
    uint32_t step_bytes;         /* of the step in flight */
};

struct lun_counters {
    _Atomic uint64_t commands, blocks_read, blocks_written, errors, refused, sleeps;
};

struct cxl_lun {
    struct device dev;
    uint64_t chunk_bytes;
    struct engine *engine;
    struct idle idle;
    struct lun_counters counters;
    int epoll, event;        /* bells; and our own, for whoever wants to change something */
    pthread_mutex_t lock;    /* of everything below; the thread lets go of it only when nothing is in flight */
    pthread_cond_t resumed;
    atomic_uint changes;     /* callers that want the lock */
    bool stop;
    struct lun_context *contexts[CXLFLASH_CONTEXTS_MAX];
    uint32_t used[CXLFLASH_CONTEXTS_MAX]; /* slots with a context, `count` of them */
    uint32_t count, first;                /* first: whose turn it is to be looked at first */
    struct lun_request requests[LUN_IN_FLIGHT];
    uint32_t free_tags[LUN_IN_FLIGHT], free_count;
    struct ended ended[LUN_IN_FLIGHT];
    pthread_t thread;
};

/* cxl_lun_new(), over a device of our own where there is a `perform`. */
int lun_new_on(const struct cxl_lun_conf *conf, device_performer *perform, void *ctx, struct cxl_lun **out);
/* The thread. */
void *lun_run(void *lun);

#endif
