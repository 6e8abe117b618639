/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "lun_engine.h"

#define BATCH 16U             /* commands of one context in one turn, so that nobody starves the others */
#define LOOK_NS 50000U        /* with commands in flight no bell is rung: the longest time between two looks */
#define EVENTS 64

static void tally(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static uint32_t in_flight(const struct cxl_lun *lun)
{
    return LUN_IN_FLIGHT - lun->free_count;
}

/* ---- one command -------------------------------------------------------------------------------------------------------- */

static void finish(struct cxl_lun *lun, uint32_t tag, int32_t result)
{
    struct lun_request *r = &lun->requests[tag];

    tally(&lun->counters.commands, 1);
    if (result)
        tally(&lun->counters.errors, 1);
    else if (r->cmd.op == CXLFLASH_READ)
        tally(&lun->counters.blocks_read, r->cmd.blocks);
    else if (r->cmd.op == CXLFLASH_WRITE)
        tally(&lun->counters.blocks_written, r->cmd.blocks);
    lun->free_tags[lun->free_count++] = tag;
    lun_context_answer(r->context, r->cmd.tag, true, result);
}

static struct step unmap_step(const struct cxl_lun *lun)
{
    if (lun->dev.is_block)
        return (struct step){.kind = STEP_BLKDISCARD};
    return (struct step){.kind = STEP_ALLOCATE, .flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE};
}

static struct step step_of(const struct cxl_lun *lun, const struct lun_request *r)
{
    switch (r->cmd.op) {
    case CXLFLASH_READ:
        return (struct step){.kind = STEP_READ, .buf = lun_context_read_slot(r->context, r->cmd.tag) + r->done};
    case CXLFLASH_WRITE: /* the device only reads the buffer */
        return (struct step){.kind = STEP_WRITE,
                             .buf = (void *)(uintptr_t)(lun_context_write_slot(r->context, r->cmd.tag) + r->done)};
    case CXLFLASH_UNMAP:
        return unmap_step(lun);
    default:
        return (struct step){.kind = STEP_SYNC};
    }
}

static void start_step(struct cxl_lun *lun, uint32_t tag)
{
    struct lun_request *r = &lun->requests[tag];
    struct step step = step_of(lun, r);

    if (step.kind != STEP_SYNC) {
        uint64_t at = r->cmd.lba * CXLFLASH_BLOCK + r->done, left = (uint64_t)r->cmd.blocks * CXLFLASH_BLOCK - r->done, len;

        step.offset = lun_handle_translate(&r->context->handles[r->cmd.handle], lun->chunk_bytes, at, left, &len);
        step.len = (uint32_t)len;
        if (device_check(&lun->dev, step.offset, step.len)) { /* the medium has become smaller */
            finish(lun, tag, -EIO);
            return;
        }
    }
    r->step_bytes = step.len;
    engine_start(lun->engine, tag, &step);
}

static void step_ended(struct cxl_lun *lun, uint32_t tag, int32_t result)
{
    struct lun_request *r = &lun->requests[tag];
    bool moves = r->cmd.op == CXLFLASH_READ || r->cmd.op == CXLFLASH_WRITE;

    if (result == -EINTR || result == -EAGAIN) { /* nothing has happened: the same step again */
        start_step(lun, tag);
        return;
    }
    if (result < 0 || (moves && !result)) {
        finish(lun, tag, result ? result : -EIO);
        return;
    }
    r->done += moves ? (uint32_t)result : r->step_bytes;
    if (r->done < (uint64_t)r->cmd.blocks * CXLFLASH_BLOCK)
        start_step(lun, tag);
    else
        finish(lun, tag, 0);
}

/* ---- the thread ---------------------------------------------------------------------------------------------------------- */

static void serve(struct cxl_lun *lun, struct lun_context *c, const struct cxlflash_command *cmd)
{
    int err = lun_context_check(c, cmd);
    uint32_t tag;

    if (!err && lun->dev.read_only && (cmd->op == CXLFLASH_WRITE || cmd->op == CXLFLASH_UNMAP))
        err = -EROFS;
    if (err) {
        tally(&lun->counters.refused, 1);
        lun_context_answer(c, cmd->tag, false, err);
        return;
    }
    tag = lun->free_tags[--lun->free_count];
    lun->requests[tag] = (struct lun_request){.context = c, .cmd = *cmd};
    lun_context_begin(c, cmd);
    start_step(lun, tag);
}

static bool serve_context(struct cxl_lun *lun, struct lun_context *c)
{
    struct cxlflash_command cmd;
    uint32_t n = 0;

    while (n < BATCH && lun->free_count && engine_has_room(lun->engine, in_flight(lun)) && lun_context_take(c, &cmd)) {
        serve(lun, c, &cmd);
        n++;
    }
    return n;
}

static uint32_t reap(struct cxl_lun *lun)
{
    uint32_t n = engine_reap(lun->engine, lun->ended, LUN_IN_FLIGHT);

    for (uint32_t i = 0; i < n; i++)
        step_ended(lun, lun->ended[i].tag, lun->ended[i].result);
    return n;
}

/* Whether there was something to do. */
static bool turn(struct cxl_lun *lun)
{
    bool busy = reap(lun);

    for (uint32_t i = 0; i < lun->count; i++)
        busy |= serve_context(lun, lun->contexts[lun->used[(lun->first + i) % lun->count]]);
    lun->first = lun->count ? (lun->first + 1) % lun->count : 0;
    busy |= engine_unsubmitted(lun->engine);
    engine_submit(lun->engine);
    return busy;
}

static void drain(struct cxl_lun *lun)
{
    while (in_flight(lun)) {
        engine_submit(lun->engine);
        if (!reap(lun))
            engine_wait(lun->engine, LOOK_NS);
    }
}

static void say_sleeping(struct cxl_lun *lun, bool sleeping)
{
    for (uint32_t i = 0; i < lun->count; i++)
        lun_context_say_sleeping(lun->contexts[lun->used[i]], sleeping);
    _mm_mfence(); /* see ring_bell() of the other side */
}

static bool anything(const struct cxl_lun *lun)
{
    bool found = atomic_load(&lun->changes);

    for (uint32_t i = 0; i < lun->count && !found; i++)
        found = lun_context_waiting(lun->contexts[lun->used[i]]);
    return found;
}

/* A bell that nobody holds any more would ring for ever. */
static void hear(struct cxl_lun *lun, const struct epoll_event *event)
{
    struct lun_context *c = event->data.ptr;
    char bytes[256];

    if (!c) {
        eventfd_t ignored;

        eventfd_read(lun->event, &ignored);
    } else if (recv(c->bell, bytes, sizeof(bytes), MSG_DONTWAIT) == 0 || event->events & (EPOLLHUP | EPOLLERR)) {
        epoll_ctl(lun->epoll, EPOLL_CTL_DEL, c->bell, NULL);
        c->gone = true;
    }
}

static void sleep_until_bell(struct cxl_lun *lun)
{
    struct epoll_event events[EVENTS];
    int n = 0;

    say_sleeping(lun, true);
    if (!anything(lun)) {
        tally(&lun->counters.sleeps, 1);
        n = epoll_wait(lun->epoll, events, EVENTS, -1);
    }
    for (int i = 0; i < n; i++)
        hear(lun, &events[i]);
    say_sleeping(lun, false);
}

static void rest(struct cxl_lun *lun)
{
    uint64_t ns = idle_next(&lun->idle);

    if (!ns)
        return;
    if (in_flight(lun))
        engine_wait(lun->engine, ns < LOOK_NS ? ns : LOOK_NS);
    else
        sleep_until_bell(lun);
}

/* Lets those in who want to change something. */
static void park(struct cxl_lun *lun)
{
    drain(lun);
    while (atomic_load(&lun->changes))
        pthread_cond_wait(&lun->resumed, &lun->lock);
}

void *lun_run(void *arg)
{
    struct cxl_lun *lun = arg;

    pthread_mutex_lock(&lun->lock);
    while (!lun->stop) {
        if (atomic_load_explicit(&lun->changes, memory_order_relaxed))
            park(lun);
        else if (turn(lun))
            idle_busy(&lun->idle);
        else
            rest(lun);
    }
    drain(lun);
    pthread_mutex_unlock(&lun->lock);
    return NULL;
}
