/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A backend: one device, and a handler for each channel that uses it.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "cxl_core.h"
#include "engine.h"
#include "handler.h"

struct entry {
    struct entry *next;
    struct handler *handler;
    bool leaving; /* somebody is waiting for its thread to end */
};

struct cbd_backend {
    struct handler_shared shared;
    pthread_mutex_t lock; /* of what follows */
    struct entry *entries;
    struct cbd_stats gone; /* sum of the handlers that are no more */
};

static int check_conf(const struct cbd_backend_conf *conf)
{
    if (!conf || conf->fd < 0 || conf->engine > CBD_ENGINE_INLINE)
        return -EINVAL;
    if (conf->logical_block_size != 512 && conf->logical_block_size != 4096)
        return -EINVAL;
    return conf->capacity && conf->capacity <= INT64_MAX && conf->capacity % conf->logical_block_size == 0 ? 0 : -EINVAL;
}

int cbd_backend_new(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, struct cbd_backend **out)
{
    struct handler_shared shared = {0};
    struct cbd_backend *be;
    int err = check_conf(conf);

    if (!err)
        err = fence_init(&shared.fence, mem, conf->fence_off, conf->host_epoch);
    if (!err)
        err = engine_choose(conf->engine, &shared.engine);
    if (err)
        return err;
    be = calloc(1, sizeof(*be));
    if (!be)
        return -ENOMEM;
    shared.mem = *mem;
    shared.idle = conf->idle;
    shared.dev = (struct device){
        .fd = conf->fd,
        .is_block = conf->is_block,
        .read_only = conf->read_only,
        .logical_block_size = conf->logical_block_size,
        .capacity = conf->capacity,
    };
    be->shared = shared;
    lookout_init(&be->shared.lookout, conf->idle.idle_cap_us);
    pthread_mutex_init(&be->lock, NULL);
    *out = be;
    return 0;
}

uint32_t cbd_backend_engine(const struct cbd_backend *be)
{
    return be->shared.engine;
}

int cbd_backend_fenced(const struct cbd_backend *be)
{
    return atomic_load(&be->shared.fenced);
}

static struct entry *find(const struct cbd_backend *be, uint64_t channel_off)
{
    struct entry *e = be->entries;

    while (e && handler_channel_off(e->handler) != channel_off)
        e = e->next;
    return e;
}

int cbd_backend_add(struct cbd_backend *be, const struct cbd_channel_conf *channel)
{
    struct entry *e = calloc(1, sizeof(*e));
    int err = 0;

    if (!e)
        return -ENOMEM;
    pthread_mutex_lock(&be->lock);
    if (channel && find(be, channel->channel_off))
        err = -EEXIST;
    if (!err)
        err = handler_start(&be->shared, channel, &e->handler);
    if (!err) {
        e->next = be->entries;
        be->entries = e;
    }
    pthread_mutex_unlock(&be->lock);
    if (err)
        free(e);
    return err;
}

static void unlink_entry(struct cbd_backend *be, struct entry *e)
{
    struct entry **link = &be->entries;

    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
}

/* The entry stays in its list, and in the sums, until its thread is gone; the lock is not held while we wait for that. */
static void retire(struct cbd_backend *be, struct entry *e)
{
    handler_stop(e->handler);
    pthread_mutex_lock(&be->lock);
    unlink_entry(be, e);
    handler_sum_stats(e->handler, &be->gone);
    pthread_mutex_unlock(&be->lock);
    handler_free(e->handler);
    free(e);
}

int cbd_backend_remove(struct cbd_backend *be, uint64_t channel_off)
{
    struct entry *e;

    pthread_mutex_lock(&be->lock);
    e = find(be, channel_off);
    if (e && e->leaving)
        e = NULL;
    if (e)
        e->leaving = true;
    pthread_mutex_unlock(&be->lock);
    if (!e)
        return -ENOENT;
    retire(be, e);
    return 0;
}

void cbd_backend_stats(struct cbd_backend *be, struct cbd_stats *out)
{
    pthread_mutex_lock(&be->lock);
    *out = be->gone;
    for (const struct entry *e = be->entries; e; e = e->next)
        handler_sum_stats(e->handler, out);
    pthread_mutex_unlock(&be->lock);
}

void cbd_backend_free(struct cbd_backend *be)
{
    if (!be)
        return;
    while (be->entries)
        retire(be, be->entries);
    pthread_mutex_destroy(&be->lock);
    lookout_free(&be->shared.lookout);
    free(be);
}
