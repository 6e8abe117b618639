/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a loop does when it found nothing: spin, then yield, then sleep for longer and longer. Nothing interrupts across hosts, so
 * somebody has to look.
 */
#ifndef CXL_IDLE_H
#define CXL_IDLE_H

#include <stdint.h>

#include "cxl_core.h"

#define IDLE_CAP_US 800U /* with the way of a request and of its answer, work waits less than a millisecond */

/* For work, which comes or not, each sleep is as long as all before it; for an answer, which will come, an eighth of that, so that
 * it waits for us only an eighth of the time that it took. */
enum idle_for {
    IDLE_FOR_WORK = 1,
    IDLE_FOR_BELL = 2, /* somebody wakes us: where spinning is not worth it a sleep is, and never a place at the end of the run queue */
    IDLE_FOR_ANSWER = 8,
};

struct idle {
    enum idle_for what;
    uint64_t spin_max_ns, cap_ns;
    uint64_t spin_ns;  /* tuned: how long spinning has been worth it */
    uint64_t since_ns; /* when idling began, 0: busy */
    uint64_t slept_ns; /* of all sleeps since there was something to do, the one to come included */
    uint32_t looks;
    uint32_t yields;
};

/* -EINVAL when a time is above one second. */
int idle_init(struct idle *idle, enum idle_for what, const struct cbd_idle_conf *conf);
/* The loop found something. */
void idle_busy(struct idle *idle);
/* The loop found nothing: returns how long it should sleep, 0 after a spin or a yield. */
uint64_t idle_next(struct idle *idle);

uint64_t idle_now_ns(void);
void idle_sleep(uint64_t ns);

#endif
