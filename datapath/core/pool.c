/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A queue knows one thread at a time, so a lane guards it by a lock. Of the calls that wait in a lane one polls, with the lock
 * released while it idles; the others sleep until they are done, until there is room for what they still have to send, or until
 * the polling one leaves and they inherit its part. When the queue was changed under them, all of them look again where they are.
 */
#include "pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "idle.h"
#include "protocol.h"
#include "queue.h"

#define BATCH 16U

struct call {
    struct call *next; /* of the sleeping calls of the lane */
    pthread_cond_t wake;
    uint32_t pending; /* pieces in flight */
    uint32_t sent;    /* bytes */
    bool all_sent;
    int32_t result; /* of the first piece that failed */
};

struct lane {
    pthread_mutex_t lock;
    struct cbd_queue *queue;
    struct idle idle; /* of whoever polls */
    bool polled;
    bool changed; /* since the polling one last looked */
    struct call *sleeping;
};

struct pool {
    uint32_t slot_bytes;
    pool_sleep sleep;
    atomic_uint turn;
    uint32_t count;
    struct lane lanes[];
};

int pool_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, uint32_t count, pool_sleep sleep,
             struct pool **out)
{
    static const struct cbd_idle_conf defaults = {0};
    struct pool *pool = calloc(1, sizeof(*pool) + count * sizeof(pool->lanes[0]));
    int err = 0;

    if (!pool)
        return -ENOMEM;
    pool->slot_bytes = channels[0].slot_bytes;
    pool->sleep = sleep;
    for (; pool->count < count; pool->count++) {
        struct lane *lane = &pool->lanes[pool->count];

        err = cbd_queue_new(mem, &channels[pool->count], &lane->queue);
        if (err) {
            pool_free(pool);
            return err;
        }
        pthread_mutex_init(&lane->lock, NULL);
        idle_init(&lane->idle, IDLE_FOR_ANSWER, &defaults);
    }
    *out = pool;
    return 0;
}

void pool_free(struct pool *pool)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        cbd_queue_free(pool->lanes[i].queue);
        pthread_mutex_destroy(&pool->lanes[i].lock);
    }
    free(pool);
}

/* Wakes those that can go on: done, or with something to send into the room that was made. */
static void wake_able(struct lane *lane)
{
    for (struct call *c = lane->sleeping; c; c = c->next) {
        if (!c->pending || (!c->all_sent && !c->result))
            pthread_cond_signal(&c->wake);
    }
}

static bool deliver(struct lane *lane)
{
    struct cbd_completion done[BATCH];
    int n = cbd_queue_poll(lane->queue, done, BATCH);

    for (int i = 0; i < n; i++) {
        struct call *c = (struct call *)(uintptr_t)done[i].user;

        c->pending--;
        if (!c->result)
            c->result = done[i].result;
    }
    if (n) {
        idle_busy(&lane->idle);
        wake_able(lane);
    }
    return n > 0;
}

static int poll_until_news(const struct pool *pool, struct lane *lane)
{
    int err = 0;

    lane->polled = true;
    lane->changed = false;
    while (!err && !deliver(lane) && !lane->changed) {
        uint64_t ns = idle_next(&lane->idle);

        pthread_mutex_unlock(&lane->lock);
        if (ns)
            err = pool->sleep(ns);
        pthread_mutex_lock(&lane->lock);
    }
    lane->polled = false;
    return err ? -ESHUTDOWN : 0;
}

static void sleep_until_woken(struct lane *lane, struct call *call)
{
    struct call **link = &lane->sleeping;

    call->next = lane->sleeping;
    lane->sleeping = call;
    pthread_cond_wait(&call->wake, &lane->lock);
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
}

/* Sends pieces while there is room. */
static int send_pieces(const struct pool *pool, struct lane *lane, struct call *call, uint32_t op, uint32_t flags, uint64_t offset,
                       uint32_t len, uint8_t *buf)
{
    while (!call->all_sent && !call->result) {
        uint32_t piece = len - call->sent;
        int err;

        if (cbd_op_has_payload(op) && piece > pool->slot_bytes)
            piece = pool->slot_bytes;
        err = cbd_queue_submit(lane->queue, op, flags, offset + call->sent, piece, buf ? buf + call->sent : NULL,
                               (uint64_t)(uintptr_t)call);
        if (err)
            return err == -EAGAIN ? 0 : err;
        call->pending++;
        call->sent += piece;
        call->all_sent = call->sent == len;
    }
    return 0;
}

int pool_run(struct pool *pool, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, void *buf)
{
    struct lane *lane = &pool->lanes[atomic_fetch_add(&pool->turn, 1) % pool->count];
    struct call call = {0};
    int err = 0;

    pthread_cond_init(&call.wake, NULL);
    pthread_mutex_lock(&lane->lock);
    while (!err) {
        err = send_pieces(pool, lane, &call, op, flags, offset, len, buf);
        if (err || (!call.pending && (call.all_sent || call.result)))
            break;
        if (lane->polled)
            sleep_until_woken(lane, &call);
        else
            err = poll_until_news(pool, lane);
    }
    if (call.pending)
        cbd_queue_abandon(lane->queue, (uint64_t)(uintptr_t)&call);
    if (!lane->polled && lane->sleeping)
        pthread_cond_signal(&lane->sleeping->wake); /* somebody has to poll */
    pthread_mutex_unlock(&lane->lock);
    pthread_cond_destroy(&call.wake);
    return err ? err : call.result;
}

/* ---- changes from outside -------------------------------------------------------------------------------------------- */

static void change_lane(struct lane *lane)
{
    lane->changed = true;
    idle_busy(&lane->idle);
    for (struct call *c = lane->sleeping; c; c = c->next)
        pthread_cond_signal(&c->wake);
}

static int rebind_all(struct pool *pool, const struct cbd_channel_conf *channels)
{
    int err = 0;

    for (uint32_t i = 0; i < pool->count && !err; i++)
        err = cbd_queue_check_rebind(pool->lanes[i].queue, &channels[i]);
    for (uint32_t i = 0; i < pool->count && !err; i++) {
        err = cbd_queue_rebind(pool->lanes[i].queue, &channels[i]);
        change_lane(&pool->lanes[i]);
    }
    return err;
}

int pool_rebind(struct pool *pool, const struct cbd_channel_conf *channels, uint32_t count)
{
    int err;

    if (count != pool->count)
        return -EINVAL;
    /* All at once, so that between the check and the change nobody else changes anything. */
    for (uint32_t i = 0; i < count; i++)
        pthread_mutex_lock(&pool->lanes[i].lock);
    err = rebind_all(pool, channels);
    for (uint32_t i = count; i-- > 0;)
        pthread_mutex_unlock(&pool->lanes[i].lock);
    return err;
}

void pool_set_offline(struct pool *pool, int32_t error)
{
    for (uint32_t i = 0; i < pool->count; i++) {
        struct lane *lane = &pool->lanes[i];

        pthread_mutex_lock(&lane->lock);
        cbd_queue_set_offline(lane->queue, error);
        change_lane(lane);
        pthread_mutex_unlock(&lane->lock);
    }
}

void pool_sum_stats(const struct pool *pool, struct cbd_stats *sum)
{
    for (uint32_t i = 0; i < pool->count; i++)
        cbd_queue_sum_stats(pool->lanes[i].queue, sum);
}
