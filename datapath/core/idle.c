/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "idle.h"

#include <errno.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#define LEAST_SPIN_NS 100000U
#define MOST_SPIN_NS 2000000U
#define NAPS 5U /* that are measured */
#define MAX_US 1000000U
#define SOON 5U
#define YIELDS 4U
#define FIRST_SLEEP_NS 10000U
#define LOOKS_PER_CLOCK 16U /* reading the clock can cost more than a look, above all in a virtual machine */
#define NS_PER_S 1000000000ULL

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

/* ---- how long to spin ------------------------------------------------------------------------------------------------- */

static uint64_t default_spin_ns;

uint64_t idle_spin_for(uint64_t nap_ns, long processors)
{
    uint64_t ns = 2 * nap_ns;

    if (ns < LEAST_SPIN_NS || processors < 2)
        return LEAST_SPIN_NS;
    return ns < MOST_SPIN_NS ? ns : MOST_SPIN_NS;
}

static uint64_t nap(void)
{
    uint64_t start = idle_now_ns();

    idle_sleep(FIRST_SLEEP_NS);
    return idle_now_ns() - start;
}

/* The shortest of a few: a busy machine makes single ones long. */
static void measure(void)
{
    uint64_t shortest = nap();

    for (uint32_t i = 1; i < NAPS; i++) {
        uint64_t ns = nap();

        shortest = ns < shortest ? ns : shortest;
    }
    default_spin_ns = idle_spin_for(shortest, sysconf(_SC_NPROCESSORS_ONLN));
}

static uint64_t spin_of(uint32_t us)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    if (us)
        return us * 1000ULL;
    pthread_once(&once, measure);
    return default_spin_ns;
}

int idle_init(struct idle *idle, enum idle_for what, const struct cbd_idle_conf *conf)
{
    uint32_t cap = conf->idle_cap_us ? conf->idle_cap_us : IDLE_CAP_US;
    uint64_t spin_ns;

    if (conf->spin_us > MAX_US || cap > MAX_US)
        return -EINVAL;
    spin_ns = spin_of(conf->spin_us);
    *idle = (struct idle){.what = what, .spin_max_ns = spin_ns, .cap_ns = cap * 1000ULL, .spin_ns = spin_ns};
    return 0;
}

/* ---- a loop without work ---------------------------------------------------------------------------------------------- */

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
