/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "engine.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "idle.h"

#define NS_PER_S 1000000000LL
/* Between two looks around: a request takes a microsecond, and what is moved should still be near when it is answered. */
#define INLINE_BATCH 16U
#define INLINE_BYTES 65536U

struct own {
    uint32_t tag;
    struct step step;
};

struct engine {
    const struct device *dev;
    enum cbd_engine kind;
    uint32_t depth;
    uint32_t in_ring;     /* steps that io_uring was given and has not reported */
    uint32_t waiting;     /* steps that our own thread will perform */
    uint64_t bytes;       /* of those */
    uint32_t performed;   /* steps that it did and that were not reaped */
    struct own *own;      /* `waiting` of them; room for one per tag */
    struct ended *ended;  /* `performed` of them; room for one per tag */
    struct io_uring ring; /* CBD_ENGINE_URING */
};

/* One submission per tag fits, so that the ring never is full; the kernel makes room for twice as many completions. */
static int ring_open(struct io_uring *ring, uint32_t depth)
{
    int err = io_uring_queue_init(depth, ring, 0);

    if (err)
        return err;
    if (ring->features & IORING_FEAT_EXT_ARG) /* waiting with a timeout; Linux 5.11, and every operation that is used is older */
        return 0;
    io_uring_queue_exit(ring);
    return -ENOSYS;
}

int engine_choose(enum cbd_engine wanted, enum cbd_engine *out)
{
    struct io_uring ring;
    int err;

    *out = wanted == CBD_ENGINE_AUTO ? CBD_ENGINE_SYNC : wanted;
    if (wanted == CBD_ENGINE_SYNC || wanted == CBD_ENGINE_INLINE)
        return 0;
    err = ring_open(&ring, 1);
    if (err)
        return wanted == CBD_ENGINE_AUTO ? 0 : err;
    io_uring_queue_exit(&ring);
    *out = CBD_ENGINE_URING;
    return 0;
}

int engine_new(const struct device *dev, enum cbd_engine kind, uint32_t depth, struct engine **out)
{
    struct engine *e = calloc(1, sizeof(*e));
    int err = -ENOMEM;

    if (!e)
        return err;
    e->dev = dev;
    e->depth = depth;
    e->own = calloc(depth, sizeof(*e->own));
    e->ended = calloc(depth, sizeof(*e->ended));
    if (e->own && e->ended)
        err = kind == CBD_ENGINE_URING ? ring_open(&e->ring, depth) : 0;
    if (err) {
        engine_free(e);
        return err;
    }
    e->kind = kind;
    *out = e;
    return 0;
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    if (e->kind == CBD_ENGINE_URING)
        io_uring_queue_exit(&e->ring);
    free(e->own);
    free(e->ended);
    free(e);
}

/* After a step that may take long the handler has to look around. */
bool engine_has_room(const struct engine *e, uint32_t in_flight)
{
    if (e->kind == CBD_ENGINE_URING)
        return in_flight < e->depth;
    if (e->kind == CBD_ENGINE_INLINE)
        return in_flight < INLINE_BATCH && e->bytes < INLINE_BYTES;
    return !in_flight;
}

/* ---- submission ------------------------------------------------------------------------------------------------------- */

static struct io_uring_sqe entry_of(const struct step *step)
{
    struct io_uring_sqe sqe = {.off = step->offset, .addr = (uintptr_t)step->buf, .len = step->len};

    switch (step->kind) {
    case STEP_READ:
        sqe.opcode = IORING_OP_READ;
        break;
    case STEP_WRITE:
        sqe.opcode = IORING_OP_WRITE;
        sqe.rw_flags = step->flags;
        break;
    case STEP_SYNC:
        sqe.opcode = IORING_OP_FSYNC;
        sqe.fsync_flags = IORING_FSYNC_DATASYNC;
        break;
    case STEP_ALLOCATE:
        sqe.opcode = IORING_OP_FALLOCATE;
        sqe.addr = step->len;
        sqe.len = (uint32_t)step->flags;
        break;
    case STEP_BLKDISCARD: /* never gets here */
        break;
    }
    return sqe;
}

/* STEP_BLKDISCARD blocks: until the device has discarded, the handler neither takes nor answers other requests of its channel. */
void engine_start(struct engine *e, uint32_t tag, const struct step *step)
{
    struct io_uring_sqe *sqe;

    if (e->kind != CBD_ENGINE_URING || step->kind == STEP_BLKDISCARD) {
        e->own[e->waiting++] = (struct own){.tag = tag, .step = *step};
        e->bytes += step->len;
        return;
    }
    sqe = io_uring_get_sqe(&e->ring);
    *sqe = entry_of(step);
    sqe->fd = e->dev->fd;
    sqe->user_data = tag;
    e->in_ring++;
}

static bool ring_unsubmitted(const struct engine *e)
{
    return e->kind == CBD_ENGINE_URING && io_uring_sq_ready(&e->ring);
}

bool engine_unsubmitted(const struct engine *e)
{
    return e->waiting || ring_unsubmitted(e);
}

void engine_submit(struct engine *e)
{
    if (ring_unsubmitted(e))
        io_uring_submit(&e->ring); /* it fails when the kernel is short of memory: later, then */
    for (uint32_t i = 0; i < e->waiting; i++)
        e->ended[e->performed++] = (struct ended){.tag = e->own[i].tag, .result = device_perform(e->dev, &e->own[i].step)};
    e->waiting = 0;
    e->bytes = 0;
}

/* ---- completion ------------------------------------------------------------------------------------------------------- */

static uint32_t reap_performed(struct engine *e, struct ended *out, uint32_t max)
{
    uint32_t n = 0;

    while (n < max && e->performed)
        out[n++] = e->ended[--e->performed];
    return n;
}

uint32_t engine_reap(struct engine *e, struct ended *out, uint32_t max)
{
    uint32_t n = reap_performed(e, out, max);
    struct io_uring_cqe *cqe;

    while (n < max && e->in_ring && !io_uring_peek_cqe(&e->ring, &cqe)) {
        out[n++] = (struct ended){.tag = (uint32_t)cqe->user_data, .result = cqe->res};
        io_uring_cqe_seen(&e->ring, cqe);
        e->in_ring--;
    }
    return n;
}

void engine_wait(struct engine *e, uint64_t ns)
{
    struct __kernel_timespec ts = {.tv_sec = (int64_t)ns / NS_PER_S, .tv_nsec = (int64_t)ns % NS_PER_S};
    struct io_uring_cqe *cqe;

    if (e->in_ring)
        io_uring_wait_cqe_timeout(&e->ring, &cqe, &ts); /* waking early is harmless */
    else
        idle_sleep(ns);
}

/* Buffers must not be freed before the kernel has let go of each of them. */
void engine_abandon(struct engine *e)
{
    struct io_uring_sync_cancel_reg everything = {.fd = -1, .flags = IORING_ASYNC_CANCEL_ANY};
    struct io_uring_cqe *cqe;

    e->waiting = 0;
    e->bytes = 0;
    e->performed = 0;
    if (!e->in_ring)
        return;
    io_uring_register_sync_cancel(&e->ring, &everything); /* before Linux 6.0 it runs to its end */
    while (e->in_ring > io_uring_sq_ready(&e->ring)) {    /* what was not submitted never will be */
        if (!io_uring_wait_cqe(&e->ring, &cqe)) {
            io_uring_cqe_seen(&e->ring, cqe);
            e->in_ring--;
        }
    }
    e->in_ring = 0;
}
