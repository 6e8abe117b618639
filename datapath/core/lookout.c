/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "lookout.h"

#include <time.h>

#include "idle.h"

#define SLEEP_NS (IDLE_CAP_US * 1000U)
#define LONGEST_NS 5000000U
#define TIMES_COST 50U      /* a sleep is that many times what waking up costs: two per cent of a core at most */
#define SLEEPS_PER_TUNE 64U /* reading the CPU time is a call to the kernel */
#define NS_PER_S 1000000000ULL

struct post {
    struct post *next;
    const struct ring *ring;
    const atomic_bool *stop;
    bool called;
    pthread_cond_t call;
};

/* Of one thread's turn at looking out. */
struct duty {
    uint32_t sleeps;
    uint64_t cpu_ns; /* when `sleeps` was 0 */
};

void lookout_init(struct lookout *lookout, uint32_t idle_cap_us)
{
    *lookout = (struct lookout){.tuned = !idle_cap_us, .sleep_ns = idle_cap_us ? idle_cap_us * 1000ULL : SLEEP_NS};
    pthread_mutex_init(&lookout->lock, NULL);
}

void lookout_free(struct lookout *lookout)
{
    pthread_mutex_destroy(&lookout->lock);
}

static uint64_t cpu_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void tune(struct lookout *lookout, struct duty *duty)
{
    uint64_t cpu, wanted;

    if (!lookout->tuned || ++duty->sleeps < SLEEPS_PER_TUNE)
        return;
    cpu = cpu_now_ns();
    wanted = (cpu - duty->cpu_ns) / SLEEPS_PER_TUNE * TIMES_COST;
    if (wanted < SLEEP_NS)
        wanted = SLEEP_NS;
    lookout->sleep_ns = wanted < LONGEST_NS ? wanted : LONGEST_NS;
    *duty = (struct duty){.cpu_ns = cpu};
}

static void look_around(const struct lookout *lookout)
{
    for (const struct post *p = lookout->posts; p; p = p->next)
        ring_peek_begin(p->ring);
    ring_peek_fence(lookout->posts->ring);
    for (struct post *p = lookout->posts; p; p = p->next) {
        p->called = p->called || ring_peek(p->ring) || atomic_load_explicit(p->stop, memory_order_relaxed);
        if (p->called)
            pthread_cond_signal(&p->call);
    }
}

static void look_out(struct lookout *lookout, struct duty *duty)
{
    uint64_t ns = lookout->sleep_ns;

    lookout->manned = true;
    pthread_mutex_unlock(&lookout->lock);
    idle_sleep(ns);
    pthread_mutex_lock(&lookout->lock);
    lookout->manned = false;
    look_around(lookout);
    tune(lookout, duty);
}

static void leave(struct lookout *lookout, const struct post *post)
{
    struct post **link = &lookout->posts;

    while (*link != post)
        link = &(*link)->next;
    *link = post->next;
    if (lookout->posts && !lookout->manned)
        pthread_cond_signal(&lookout->posts->call); /* somebody has to look out */
}

void lookout_wait(struct lookout *lookout, const struct ring *ring, const atomic_bool *stop)
{
    struct post post = {.ring = ring, .stop = stop, .call = PTHREAD_COND_INITIALIZER};
    struct duty duty = {.cpu_ns = lookout->tuned ? cpu_now_ns() : 0};

    pthread_mutex_lock(&lookout->lock);
    post.next = lookout->posts;
    lookout->posts = &post;
    while (!post.called) {
        if (lookout->manned)
            pthread_cond_wait(&post.call, &lookout->lock);
        else
            look_out(lookout, &duty);
    }
    leave(lookout, &post);
    pthread_mutex_unlock(&lookout->lock);
    pthread_cond_destroy(&post.call);
}
