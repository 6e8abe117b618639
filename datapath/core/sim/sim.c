/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One simulation: its configuration, its chance, its adversary, its steps and its outcome.
 */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define STALL_STEPS 60000U /* far more than any wait that ends takes */
#define TRACED 256U

static const char *const adversary_names[SIM_ADVERSARIES] = {
    [SIM_LAZY] = "lazy",   [SIM_EAGER] = "eager", [SIM_REORDER] = "reorder",   [SIM_TORN] = "torn",
    [SIM_CLEAN] = "clean", [SIM_CRASH] = "crash", [SIM_BUFFERED] = "buffered",
};

struct event {
    uint64_t step, off, len;
    uint32_t host;
    const char *what;
};

static struct sim {
    struct sim_conf conf;
    struct profile profile;
    struct sim_report report;
    uint64_t chance; /* state of the random numbers */
    uint64_t progress_at;
    bool dead[SIM_MAX_HOSTS];
    uint64_t crash_at; /* 0: nobody will */
    uint32_t crash_host;
    void (*on_crash)(void);
    void (*on_pause)(void);
    bool over;
    struct event trace[TRACED];
} sim;

const char *sim_adversary_name(uint32_t adversary)
{
    return adversary < SIM_ADVERSARIES ? adversary_names[adversary] : NULL;
}

uint32_t sim_random(uint32_t n)
{
    sim.chance += 0x9e3779b97f4a7c15ULL; /* splitmix64 */

    uint64_t z = sim.chance;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    return (uint32_t)((z >> 32) * n >> 32);
}

/* ---- adversaries -------------------------------------------------------------------------------------------------------- */

static uint32_t one_of(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t n = sim_random(3);

    return n == 0 ? a : n == 1 ? b : c;
}

static struct profile profile_of(uint32_t adversary)
{
    struct profile p = {0};

    switch (adversary) {
    case SIM_EAGER:
        p.evict = one_of(4, 32, 256);
        p.prefetch = one_of(4, 32, 256);
        break;
    case SIM_REORDER:
        p.queued = true;
        p.drain = one_of(0, 0, 64);
        p.evict = one_of(0, 0, 16);
        p.prefetch = one_of(0, 16, 128); /* a CPU also loads before it is told to, and before the flush that it has not done */
        break;
    case SIM_TORN:
        p.queued = true;
        p.drain = one_of(0, 32, 256);
        p.evict = one_of(0, 8, 64);
        p.prefetch = one_of(0, 16, 128);
        p.tear = 768;
        break;
    case SIM_CLEAN:
        p.evict = p.prefetch = one_of(0, 8, 64);
        p.clean = one_of(1, 8, 64);
        break;
    case SIM_CRASH:
        p = profile_of(sim_random(SIM_TORN + 1));
        p.crash = true;
        break;
    case SIM_BUFFERED:
        p.coherent = true;
        p.drain = one_of(2, 32, 512);
        break;
    default: /* SIM_LAZY */
        break;
    }
    p.pause = one_of(16, 128, 768);
    return p;
}

static bool happens(uint32_t chance)
{
    return chance && sim_random(1024) < chance;
}

static void moves(void)
{
    if (happens(sim.profile.evict))
        model_evict_some();
    if (happens(sim.profile.prefetch))
        model_prefetch_some();
    if (happens(sim.profile.drain))
        model_drain_some();
    if (sim.profile.tear)
        model_tear_on();
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

void sim_open(const struct sim_conf *conf)
{
    sim = (struct sim){.conf = *conf, .chance = conf->seed * 0x2545f4914f6cdd1dULL + conf->adversary};
    sim.profile = profile_of(conf->adversary);
    model_open(conf);
    sched_open();
}

void sim_close(struct sim_report *report)
{
    sched_close();
    model_close();
    *report = sim.report;
}

const struct profile *sim_profile(void)
{
    return &sim.profile;
}

void sim_on_pause(void (*pause)(void))
{
    sim.on_pause = pause;
    sim.profile.pause = one_of(0, 2, 8); /* actors that are threads are slow to change */
}

void sim_fail(const char *format, ...)
{
    va_list args;

    if (!sim.over) {
        sim.over = true;
        sim.report.outcome = SIM_FAILED;
        va_start(args, format);
        vsnprintf(sim.report.why, sizeof(sim.report.why), format, args);
        va_end(args);
    }
    sched_stop();
}

void sim_lost(const char *what)
{
    if (sim.conf.adversary != SIM_CLEAN)
        sim_fail("%s", what);
    sim.over = true;
    sim.report.outcome = SIM_GAVE_UP;
    sched_stop();
}

bool sim_over(void)
{
    return sim.over;
}

void sim_progress(void)
{
    sim.progress_at = sim.report.steps;
}

/* ---- crashes ------------------------------------------------------------------------------------------------------------ */

bool sim_is_dead(uint32_t host)
{
    return sim.dead[host];
}

static void crash(uint32_t host)
{
    sim.dead[host] = true;
    model_lose(host);
    if (sim.on_crash)
        sim.on_crash();
}

void sim_crash_sometime(uint32_t host, void (*on_crash)(void))
{
    if (!sim.profile.crash)
        return;
    sim.crash_host = host;
    sim.on_crash = on_crash;
    sim.crash_at = sim.report.steps + 1 + sim_random(1U << (6 + sim_random(9)));
}

/* ---- steps -------------------------------------------------------------------------------------------------------------- */

bool sim_drops(enum mem_site site)
{
    if (site == SIM_NO_SITE)
        return false;
    sim.report.hits[site]++;
    return (int32_t)site == sim.conf.drop;
}

void sim_step(uint32_t host, const char *what, uint64_t off, uint64_t len)
{
    uint64_t step = ++sim.report.steps;

    if (sim.over)
        return;
    sim.trace[step % TRACED] = (struct event){.step = step, .off = off, .len = len, .host = host, .what = what};
    if (step - sim.progress_at > STALL_STEPS)
        sim_lost("nothing has come further for too long");
    if (sim.crash_at && step >= sim.crash_at) {
        sim.crash_at = 0;
        crash(sim.crash_host);
    }
    moves();
    if (sim.on_pause) {
        if (happens(sim.profile.pause))
            sim.on_pause();
    } else if (sim.dead[host] || happens(sim.profile.pause)) {
        sched_pause();
    }
}

size_t sim_trace(char *out, size_t size)
{
    uint64_t last = sim.report.steps;
    size_t used = 0;

    for (uint64_t step = last > TRACED ? last - TRACED + 1 : 1; step <= last && used < size; step++) {
        const struct event *e = &sim.trace[step % TRACED];

        if (e->step != step)
            continue;
        int n = snprintf(out + used, size - used, "%8llu  host %u  %-12s %#8llx %llu\n", (unsigned long long)e->step, e->host,
                         e->what, (unsigned long long)e->off, (unsigned long long)e->len);
        used += n > 0 ? (size_t)n : 0;
    }
    return used < size ? used : size;
}
