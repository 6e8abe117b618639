/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a loop does when it found nothing: spin, then yield, then sleep for longer and longer. Nothing interrupts across hosts, so
 * somebody has to look; at the default cap an idle loop costs about one percent of a core. After a second without work the cap is five
 * times as high: many idle channels would keep an emulated processor busy otherwise.
 */
#ifndef CXL_IDLE_H
#define CXL_IDLE_H

#include <stdint.h>

#include "cxl_core.h"

struct idle {
    uint64_t spin_max_ns, cap_ns;
    uint64_t spin_ns;  /* tuned: how long spinning has been worth it */
    uint64_t since_ns; /* when idling began, 0: busy */
    uint64_t sleep_ns; /* of the last sleep, 0: none yet */
    uint64_t slept_ns; /* of all sleeps since there was something to do */
    uint32_t looks;
    uint32_t yields;
};

/* -EINVAL when a time is above one second. */
int idle_init(struct idle *idle, const struct cbd_idle_conf *conf);
/* The loop found something. */
void idle_busy(struct idle *idle);
/* The loop found nothing: returns how long it should sleep, 0 after a spin or a yield. */
uint64_t idle_next(struct idle *idle);
/* idle_next() and the sleep. */
void idle_wait(struct idle *idle);

uint64_t idle_now_ns(void);
void idle_sleep(uint64_t ns);

#endif
