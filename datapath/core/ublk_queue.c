/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Each tag is in one place at a time: with the driver (fetching), with us (waiting for room in the channel), with the backend (in
 * flight), or gone, when the device was stopped.
 */
#define _GNU_SOURCE
#include "ublk_queue.h"

#include <errno.h>
#include <liburing.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "cbd_format.h"
#include "idle.h"
#include "order.h"
#include "queue.h"
#include "thread.h"
#include "ublk_abi.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define BATCH 32U
#define NS_PER_S 1000000000ULL
#define ORDER UINT64_MAX /* user_data of the watch on orders; the others are tags */

enum where { GONE, FETCHING, WAITING, IN_FLIGHT, PLACES };

struct ublk_queue {
    uint16_t q_id;
    uint32_t depth, slot_bytes;
    int char_fd;
    struct cbd_queue *channel;
    struct io_uring ring;
    bool has_ring, has_orders, has_thread;
    const struct ublk_io_desc *descs; /* by tag, written by the driver */
    uint8_t *buffers;                 /* by tag, slot_bytes each; the driver copies payload in and out */
    uint8_t *where;                   /* by tag, enum where */
    uint32_t count[PLACES];
    struct idle idle;
    struct orders orders;
    atomic_bool impatient, gave_up;
    uint64_t silent_since_ns; /* impatient: last progress */
    sem_t fetched;
    int start_err;
    pthread_t thread;
};

static size_t buffers_len(const struct ublk_queue *q)
{
    return (size_t)q->depth * q->slot_bytes;
}

static size_t descs_len(const struct ublk_queue *q)
{
    return (q->depth * sizeof(struct ublk_io_desc) + CBD_PAGE - 1) / CBD_PAGE * CBD_PAGE;
}

static void *buffer(const struct ublk_queue *q, uint32_t tag)
{
    return q->buffers + (size_t)tag * q->slot_bytes;
}

static void move(struct ublk_queue *q, uint32_t tag, enum where to)
{
    q->count[q->where[tag]]--;
    q->where[tag] = (uint8_t)to;
    q->count[to]++;
}

/* ---- towards the driver ------------------------------------------------------------------------------------------------ */

static void post(struct ublk_queue *q, uint32_t op, uint32_t tag, int32_t result)
{
    struct ublk_io_cmd cmd = {
        .q_id = q->q_id, .tag = (uint16_t)tag, .result = result, .addr = (uint64_t)(uintptr_t)buffer(q, tag)};
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

    if (!sqe) { /* cannot be: the ring has an entry per tag and one more, and a tag is posted once at a time */
        move(q, tag, GONE);
        return;
    }
    memset(sqe, 0, sizeof(*sqe));
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = q->char_fd;
    sqe->cmd_op = op;
    sqe->user_data = tag;
    memcpy(sqe->cmd, &cmd, sizeof(cmd));
    move(q, tag, FETCHING);
}

static void watch_orders(struct ublk_queue *q)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);

    if (sqe) { /* there is an entry for it beside those of the tags */
        io_uring_prep_poll_add(sqe, q->orders.event, POLLIN);
        sqe->user_data = ORDER;
    }
}

static int send_posted(struct ublk_queue *q)
{
    int n = 0;

    while (io_uring_sq_ready(&q->ring) && (n >= 0 || n == -EINTR || n == -EAGAIN))
        n = io_uring_submit(&q->ring);
    return n < 0 ? n : 0;
}

static void commit(struct ublk_queue *q, uint32_t tag, int32_t result)
{
    post(q, UBLK_IO_COMMIT_AND_FETCH, tag, result);
}

static void take_tag(struct ublk_queue *q, const struct io_uring_cqe *cqe, int *err)
{
    move(q, (uint32_t)cqe->user_data, cqe->res == UBLK_IO_OK ? WAITING : GONE);
    if (cqe->res != UBLK_IO_OK)
        *err = cqe->res;
}

/* Takes what the driver handed out, and the news that there is an order; whether there was anything. */
static bool reap(struct ublk_queue *q, int *err)
{
    struct io_uring_cqe *cqes[BATCH];
    unsigned n = io_uring_peek_batch_cqe(&q->ring, cqes, BATCH);

    for (unsigned i = 0; i < n; i++) {
        if (cqes[i]->user_data != ORDER) {
            take_tag(q, cqes[i], err);
            continue;
        }
        orders_clear_event(&q->orders);
        watch_orders(q);
    }
    io_uring_cq_advance(&q->ring, n);
    return n;
}

/* ---- towards the backend ------------------------------------------------------------------------------------------------ */

static uint32_t channel_op(uint32_t op)
{
    switch (op) {
    case UBLK_OP_READ:
        return CBD_READ;
    case UBLK_OP_WRITE:
        return CBD_WRITE;
    case UBLK_OP_DISCARD:
        return CBD_DISCARD;
    case UBLK_OP_WRITE_ZEROES:
        return CBD_WRITE_ZEROES;
    case UBLK_OP_FLUSH:
        return CBD_FLUSH;
    default:
        return 0; /* refused by the channel */
    }
}

static int start_request(struct ublk_queue *q, uint32_t tag)
{
    const struct ublk_io_desc *desc = &q->descs[tag];
    uint32_t op = channel_op(desc->op_flags & UBLK_OP_MASK);
    uint32_t flags = desc->op_flags & UBLK_IO_F_FUA && op == CBD_WRITE ? CBD_FUA : 0;
    uint64_t len = (uint64_t)desc->nr_sectors << UBLK_SECTOR_SHIFT;

    if (op == CBD_FLUSH)
        return cbd_queue_submit(q->channel, op, 0, 0, 0, NULL, tag);
    if (len > UINT32_MAX)
        return -EINVAL;
    return cbd_queue_submit(q->channel, op, flags, desc->start_sector << UBLK_SECTOR_SHIFT, (uint32_t)len, buffer(q, tag), tag);
}

static bool start_waiting(struct ublk_queue *q)
{
    bool any = false;

    for (uint32_t tag = 0; tag < q->depth && q->count[WAITING]; tag++) {
        int err;

        if (q->where[tag] != WAITING)
            continue;
        err = start_request(q, tag);
        if (err == -EAGAIN)
            break;
        if (err)
            commit(q, tag, err);
        else
            move(q, tag, IN_FLIGHT);
        any = true;
    }
    return any;
}

static bool finish_requests(struct ublk_queue *q)
{
    struct cbd_completion done[BATCH];
    int n = cbd_queue_poll(q->channel, done, BATCH);

    for (int i = 0; i < n; i++) {
        uint32_t tag = (uint32_t)done[i].user;
        uint32_t op = q->descs[tag].op_flags & UBLK_OP_MASK;
        bool bytes = op == UBLK_OP_READ || op == UBLK_OP_WRITE;

        commit(q, tag, done[i].result || !bytes ? done[i].result : (int32_t)done[i].len);
    }
    return n > 0;
}

/* ---- the thread ------------------------------------------------------------------------------------------------------- */

static void watch_patience(struct ublk_queue *q, bool progress)
{
    if (!atomic_load(&q->impatient) || progress)
        q->silent_since_ns = 0;
    else if (!q->silent_since_ns)
        q->silent_since_ns = idle_now_ns();
    else if (idle_now_ns() - q->silent_since_ns > UBLK_PATIENCE_S * NS_PER_S) {
        cbd_queue_set_offline(q->channel, -EIO);
        atomic_store(&q->gave_up, true);
    }
}

static void wait_for_more(struct ublk_queue *q)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec ts = {0};

    if (!q->count[WAITING] && !q->count[IN_FLIGHT]) {
        io_uring_wait_cqe(&q->ring, &cqe); /* only the driver can have news, or an order comes */
        idle_busy(&q->idle);
        return;
    }
    ts.tv_nsec = (long long)idle_next(&q->idle);
    if (ts.tv_nsec) /* a sleep from which the driver, too, can wake us */
        io_uring_wait_cqe_timeout(&q->ring, &cqe, &ts);
}

static bool turn(struct ublk_queue *q)
{
    int ignored = 0;
    bool any = reap(q, &ignored);

    any |= orders_obey(&q->orders, q->channel);
    any |= finish_requests(q);
    any |= start_waiting(q);
    send_posted(q);
    return any;
}

static void fetch_all(struct ublk_queue *q)
{
    for (uint32_t tag = 0; tag < q->depth; tag++)
        post(q, UBLK_IO_FETCH, tag, 0);
    watch_orders(q);
    q->start_err = send_posted(q);
    /* A fetch that is refused is refused at once. */
    while (reap(q, &q->start_err))
        ;
}

static void *run(void *arg)
{
    struct ublk_queue *q = arg;

    /* Memory that we allocate must not be reclaimed through our own device. Needs a capability; without it we only lose that. */
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    io_uring_enable_rings(&q->ring);
    fetch_all(q);
    sem_post(&q->fetched);
    while (q->count[GONE] < q->depth) {
        bool any = turn(q);

        watch_patience(q, any);
        if (any)
            idle_busy(&q->idle);
        else
            wait_for_more(q);
    }
    orders_close(&q->orders);
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

/* The thread, which enables the ring, finds its requests when it looks, instead of being interrupted for each. Linux before 6.1
 * interrupts. */
static int ring_open(struct ublk_queue *q)
{
    unsigned quiet = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    int err = io_uring_queue_init(q->depth + 1, &q->ring, IORING_SETUP_R_DISABLED | quiet);

    return err == -EINVAL ? io_uring_queue_init(q->depth + 1, &q->ring, IORING_SETUP_R_DISABLED) : err;
}

int ublk_queue_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channel, const struct cbd_idle_conf *idle,
                   uint16_t q_id, struct ublk_queue **out)
{
    struct ublk_queue *q = calloc(1, sizeof(*q));
    int err;

    if (!q)
        return -ENOMEM;
    sem_init(&q->fetched, 0, 0);
    err = orders_init(&q->orders);
    q->has_orders = !err;
    if (!err)
        err = cbd_queue_new(mem, channel, &q->channel);
    if (!err)
        err = idle_init(&q->idle, IDLE_FOR_ANSWER, idle);
    if (!err) {
        q->q_id = q_id;
        q->depth = channel->ring_depth;
        q->slot_bytes = channel->slot_bytes;
        q->where = calloc(q->depth, sizeof(*q->where));
        q->count[GONE] = q->depth;
        q->buffers = mmap(NULL, buffers_len(q), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (q->buffers == MAP_FAILED)
            q->buffers = NULL;
        err = q->where && q->buffers ? ring_open(q) : -ENOMEM;
        q->has_ring = !err;
    }
    if (err) {
        ublk_queue_free(q);
        return err;
    }
    *out = q;
    return 0;
}

int ublk_queue_probe(struct ublk_queue *q, uint32_t logical_block_size)
{
    struct cbd_completion done;
    int err = cbd_queue_submit(q->channel, CBD_READ, 0, 0, logical_block_size, buffer(q, 0), 0);

    if (err)
        return err;
    /* An error is an answer, too. */
    return cbd_queue_wait(q->channel, &done, 1, UBLK_PATIENCE_S * 1000000ULL) ? 0 : -ETIMEDOUT;
}

int ublk_queue_start(struct ublk_queue *q, int char_fd, const cpu_set_t *cpus)
{
    void *descs = mmap(NULL, descs_len(q), PROT_READ, MAP_SHARED, char_fd, (off_t)(q->q_id * UBLK_QUEUE_STRIDE));
    int err;

    if (descs == MAP_FAILED)
        return -errno;
    q->descs = descs;
    q->char_fd = char_fd;
    err = thread_start(&q->thread, "cbd-ublk", run, q);
    if (err)
        return err;
    q->has_thread = true;
    if (cpus) /* where the user runs: to wake another CPU takes longer than the rest of a request, above all an emulated one */
        pthread_setaffinity_np(q->thread, sizeof(*cpus), cpus);
    while (sem_wait(&q->fetched))
        ; /* EINTR */
    return q->start_err;
}

void ublk_queue_set_impatient(struct ublk_queue *q, bool impatient)
{
    atomic_store(&q->impatient, impatient);
}

int ublk_queue_check_rebind(const struct ublk_queue *q, const struct cbd_channel_conf *channel)
{
    return cbd_queue_check_rebind(q->channel, channel);
}

int ublk_queue_order(struct ublk_queue *q, const struct order *order)
{
    return orders_give(&q->orders, order);
}

bool ublk_queue_gave_up(const struct ublk_queue *q)
{
    return atomic_load(&q->gave_up);
}

void ublk_queue_join(struct ublk_queue *q)
{
    if (q->has_thread)
        pthread_join(q->thread, NULL);
    q->has_thread = false;
    if (q->descs)
        munmap((void *)(uintptr_t)q->descs, descs_len(q));
    q->descs = NULL;
}

void ublk_queue_free(struct ublk_queue *q)
{
    if (!q)
        return;
    if (q->has_ring)
        io_uring_queue_exit(&q->ring);
    if (q->buffers)
        munmap(q->buffers, buffers_len(q));
    free(q->where);
    cbd_queue_free(q->channel);
    if (q->has_orders)
        orders_free(&q->orders);
    sem_destroy(&q->fetched);
    free(q);
}

void ublk_queue_sum_stats(const struct ublk_queue *q, struct cbd_stats *sum)
{
    cbd_queue_sum_stats(q->channel, sum);
}
