/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Actors as coroutines: one runs until it pauses, and the seed says who goes on.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "model.h"

#define MAX_ACTORS 8U
#define STACK_BYTES (256U << 10)

struct actor {
    ucontext_t context;
    void *stack;
    uint32_t host;
    sim_actor_fn *fn;
    void *arg;
    bool over;
};

static struct sched {
    struct actor actors[MAX_ACTORS];
    uint32_t count;
    struct actor *running; /* NULL: none of them */
    ucontext_t outside;    /* who called sim_go() */
    bool stopped;
} sched;

void sched_open(void)
{
    sched = (struct sched){0};
}

void sched_close(void)
{
    for (uint32_t i = 0; i < sched.count; i++)
        munmap(sched.actors[i].stack, STACK_BYTES);
    sched.count = 0;
}

static void live(void)
{
    struct actor *self = sched.running;

    self->fn(self->arg);
    model_rest(self->host, true);
    self->over = true;
    setcontext(&sched.outside);
}

void sim_actor(uint32_t host, sim_actor_fn *fn, void *arg)
{
    struct actor *a = &sched.actors[sched.count++];

    if (sched.count > MAX_ACTORS)
        abort();
    *a = (struct actor){.host = host, .fn = fn, .arg = arg};
    a->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->stack == MAP_FAILED || getcontext(&a->context))
        abort();
    a->context.uc_stack.ss_sp = a->stack;
    a->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&a->context, live, 0);
}

static struct actor *next(void)
{
    struct actor *ready[MAX_ACTORS];
    uint32_t n = 0;

    for (uint32_t i = 0; i < sched.count; i++) {
        struct actor *a = &sched.actors[i];

        if (!a->over && !sim_is_dead(a->host))
            ready[n++] = a;
    }
    return n ? ready[sim_random(n)] : NULL;
}

void sim_go(void)
{
    while (!sched.stopped && (sched.running = next()))
        swapcontext(&sched.outside, &sched.running->context);
    sched.running = NULL;
}

void sched_pause(void)
{
    struct actor *self = sched.running, *other = self ? next() : NULL;

    if (!self || other == self)
        return;
    sched.running = other;
    swapcontext(&self->context, other ? &other->context : &sched.outside);
}

void sched_stop(void)
{
    sched.stopped = true;
    if (sched.running)
        setcontext(&sched.outside);
}

void sim_rest(void)
{
    sim_step(sched.running->host, "rests", 0, 0);
    model_rest(sched.running->host, false);
    sched_pause();
}
