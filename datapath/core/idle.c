/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "idle.h"

#include <errno.h>
#include <immintrin.h>
#include <sched.h>
#include <stdbool.h>
#include <time.h>

#define DEFAULT_SPIN_US 100U /* longer than a short sleep really lasts, so that two loops cannot go on sleeping past each other */
#define MAX_US 1000000U
#define SOON 5U
#define YIELDS 4U
#define FIRST_SLEEP_NS 10000U
#define LOOKS_PER_CLOCK 16U /* reading the clock can cost more than a look, above all in a virtual machine */
#define NS_PER_S 1000000000ULL

int idle_init(struct idle *idle, enum idle_for what, const struct cbd_idle_conf *conf)
{
    uint32_t spin = conf->spin_us ? conf->spin_us : DEFAULT_SPIN_US;
    uint32_t cap = conf->idle_cap_us ? conf->idle_cap_us : IDLE_CAP_US;

    if (spin > MAX_US || cap > MAX_US)
        return -EINVAL;
    *idle = (struct idle){.what = what, .spin_max_ns = spin * 1000ULL, .cap_ns = cap * 1000ULL, .spin_ns = spin * 1000ULL};
    return 0;
}

uint64_t idle_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void idle_sleep(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

    nanosleep(&ts, NULL); /* waking early is harmless: every caller looks again */
}

/* Spinning is worth it while things come soon. Where nobody rings this counts for what came during a sleep, too: both sides sleep, and
 * a good part of what one waits for are the sleeps of the other, which would go on for ever otherwise. */
static bool soon_enough(const struct idle *idle)
{
    if (idle->what == IDLE_FOR_BELL)
        return !idle->slept_ns;
    return !idle->slept_ns || idle_now_ns() - idle->since_ns < SOON * idle->spin_max_ns;
}

static void tune(struct idle *idle)
{
    bool soon = soon_enough(idle);
    uint64_t floor = idle->spin_max_ns / 8;

    idle->spin_ns = soon ? idle->spin_ns * 2 : idle->spin_ns / 2;
    if (idle->spin_ns < floor)
        idle->spin_ns = floor;
    if (idle->spin_ns > idle->spin_max_ns)
        idle->spin_ns = idle->spin_max_ns;
}

void idle_busy(struct idle *idle)
{
    if (!idle->since_ns)
        return;
    tune(idle);
    idle->since_ns = 0;
    idle->slept_ns = 0;
    idle->looks = 0;
    idle->yields = 0;
}

static bool spinning(struct idle *idle)
{
    if (!idle->since_ns)
        idle->since_ns = idle_now_ns();
    return ++idle->looks % LOOKS_PER_CLOCK || idle_now_ns() - idle->since_ns < idle->spin_ns;
}

static uint64_t next_sleep(const struct idle *idle)
{
    uint64_t ns = idle->slept_ns / idle->what;

    if (ns < FIRST_SLEEP_NS)
        ns = FIRST_SLEEP_NS;
    return ns < idle->cap_ns ? ns : idle->cap_ns;
}

uint64_t idle_next(struct idle *idle)
{
    uint64_t ns;

    if (!idle->yields && spinning(idle)) {
        _mm_pause();
        return 0;
    }
    if (idle->what != IDLE_FOR_BELL && idle->yields < YIELDS) {
        idle->yields++;
        sched_yield();
        return 0;
    }
    ns = next_sleep(idle);
    idle->slept_ns += ns;
    return ns;
}
