/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Threads that wait for work on rings: one of them sleeps and looks at all the rings, the others are called when it found something.
 * Thus it costs the same to wait on one ring as on many.
 */
#ifndef CXL_LOOKOUT_H
#define CXL_LOOKOUT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ring.h"

struct post;

struct lookout {
    pthread_mutex_t lock; /* of what follows */
    struct post *posts;   /* of the threads that wait */
    bool manned;          /* one of them looks out for all */
    bool tuned;           /* sleep_ns follows what waking up costs */
    uint64_t sleep_ns;    /* between two looks */
};

/* idle_cap_us: of struct cbd_idle_conf. */
void lookout_init(struct lookout *lookout, uint32_t idle_cap_us);
/* Nobody may be waiting. */
void lookout_free(struct lookout *lookout);
/* Returns when there seems to be something in the next slot of the ring, or *stop is set. The rings are in one mapping. */
void lookout_wait(struct lookout *lookout, const struct ring *ring, const atomic_bool *stop);

#endif
