/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A simulation of hosts that share memory without coherence, for the core as it is shipped: everything that the core does to shared
 * memory it does through mem.h, and a build with -DCXL_SIM takes mem.h from mem_sim.c. Not part of what is shipped. docs/proof.md says
 * what is modelled, and what is not.
 *
 * One simulation at a time, on one thread; everything that happens in it follows from its configuration.
 */
#ifndef CXL_SIM_H
#define CXL_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mem.h"

#define SIM_NO_SITE MEM_SITE_COUNT /* of a flush or fence in a model of the simulator itself: never dropped */
#define SIM_DROP_NONE (-1)
#define SIM_MAX_HOSTS 8U

/* What the caches do by themselves. Each leaves the memory as a real machine might. */
enum sim_adversary {
    SIM_LAZY,     /* nothing: what is not flushed never leaves, what is not invalidated stays */
    SIM_EAGER,    /* writes back, drops and prefetches any line at any time */
    SIM_REORDER,  /* flushes take effect in any order, as late as at the fence, and never without one */
    SIM_TORN,     /* ... and the 8-byte words of a line arrive one by one, in any order */
    SIM_CLEAN,    /* writes lines back that nobody changed, over newer bytes of others; the memory may lose what was written */
    SIM_CRASH,    /* one of the first four, and a host loses power at any time */
    SIM_BUFFERED, /* coherent memory; stores stay in a buffer of the CPU while later loads go ahead */
    SIM_ADVERSARIES
};

const char *sim_adversary_name(uint32_t adversary); /* NULL: there is none */

enum sim_outcome {
    SIM_PASSED,
    SIM_GAVE_UP, /* nothing wrong was seen, but something was lost; only where the adversary may lose */
    SIM_FAILED,
};

struct sim_report {
    uint32_t outcome; /* enum sim_outcome */
    char why[200];
    uint64_t steps;
    uint64_t hits[MEM_SITE_COUNT]; /* how often each site was reached */
};

/* ---- life ------------------------------------------------------------------------------------------------------------- */

struct sim_conf {
    uint32_t adversary; /* enum sim_adversary */
    uint32_t hosts;     /* at most SIM_MAX_HOSTS */
    uint64_t bytes;     /* of the shared memory, a multiple of 4096 */
    uint64_t seed;
    int32_t drop;       /* enum mem_site: the flush or fence that is not there; SIM_DROP_NONE */
};

void sim_open(const struct sim_conf *conf);
void sim_close(struct sim_report *report);
/* The mapping of a host. Its address only names the host: who touches memory past mem.h gets a SIGSEGV. */
struct cxl_mem sim_mem(uint32_t host);
/* What is in the memory itself, behind the caches. For the state before the first step, and for the last look. */
uint8_t *sim_memory(void);
/* The last steps as text, the newest last. */
size_t sim_trace(char *out, size_t size);

/* ---- for scenarios ---------------------------------------------------------------------------------------------------- */

/* From 0 to below n, by the seed. */
uint32_t sim_random(uint32_t n);
/* The simulation ends as failed. Inside of actors of ours there is no return. */
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, but an adversary that may lose what was written made us give up. */
void sim_lost(const char *what);
bool sim_over(void);
/* Something that must not take for ever has come further. */
void sim_progress(void);
/* Stores of a host so far. */
uint64_t sim_stores(uint32_t host);
/* Where the adversary is SIM_CRASH, takes the power of a host at some time: of what its cache alone holds any part has arrived, and its
 * actors end where they are. on_crash: may be NULL. */
void sim_crash_sometime(uint32_t host, void (*on_crash)(void));
bool sim_is_dead(uint32_t host);

/* ---- actors, in C: threads of the hosts, of which one runs at a time ---------------------------------------------------- */

typedef void sim_actor_fn(void *arg);
void sim_actor(uint32_t host, sim_actor_fn *fn, void *arg);
/* Runs the actors until all have ended, or the simulation has. */
void sim_go(void);
/* An actor that has nothing to do for now. */
void sim_rest(void);

/* ---- actors of somebody else (Python's threads) -------------------------------------------------------------------------- */

/* Called before each step where another actor may go on; NULL: nobody else does. */
void sim_on_pause(void (*pause)(void));

/* ---- inside of the simulator ---------------------------------------------------------------------------------------------- */

struct profile { /* an adversary as the seed made it; chances of a move at each step, of 1024 */
    uint32_t evict, prefetch, drain;
    uint32_t pause; /* that another actor goes on */
    uint32_t tear;  /* that a write-back arrives word by word */
    uint32_t clean; /* that an unchanged line is written back when it is dropped */
    bool queued;    /* flushes wait for their fence */
    bool coherent;
    bool crash;
};
const struct profile *sim_profile(void);
/* Before everything that an actor does to the memory. */
void sim_step(uint32_t host, const char *what, uint64_t off, uint64_t len);
bool sim_drops(enum mem_site site);

void sched_open(void);
void sched_close(void);
void sched_pause(void);
/* Back to who called sim_go(); does nothing outside of actors. */
void sched_stop(void);

#endif
