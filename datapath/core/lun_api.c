/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lun_engine.h"
#include "thread.h"

/* ---- changes ------------------------------------------------------------------------------------------------------------ */

static void begin_change(struct cxl_lun *lun)
{
    atomic_fetch_add(&lun->changes, 1);
    eventfd_write(lun->event, 1);
    pthread_mutex_lock(&lun->lock);
}

static int end_change(struct cxl_lun *lun, int result)
{
    atomic_fetch_sub(&lun->changes, 1);
    pthread_cond_signal(&lun->resumed);
    pthread_mutex_unlock(&lun->lock);
    return result;
}

static struct lun_context *find(const struct cxl_lun *lun, uint32_t slot)
{
    return slot < CXLFLASH_CONTEXTS_MAX ? lun->contexts[slot] : NULL;
}

static int watch(struct cxl_lun *lun, int fd, struct lun_context *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};

    return epoll_ctl(lun->epoll, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int add(struct cxl_lun *lun, uint32_t slot, struct lun_context *c)
{
    int err;

    if (lun->contexts[slot])
        return -EEXIST;
    err = watch(lun, c->bell, c);
    if (err)
        return err;
    lun->contexts[slot] = c;
    lun->used[lun->count++] = slot;
    return 0;
}

int cxl_lun_add(struct cxl_lun *lun, uint32_t slot, const struct cxl_lun_context_conf *conf)
{
    struct lun_context *c;
    int err = slot < CXLFLASH_CONTEXTS_MAX ? lun_context_new(conf, &c) : -EINVAL;

    if (err)
        return err;
    begin_change(lun);
    err = end_change(lun, add(lun, slot, c));
    if (err)
        lun_context_free(c);
    return err;
}

static void forget_slot(struct cxl_lun *lun, uint32_t slot)
{
    uint32_t i = 0;

    while (lun->used[i] != slot)
        i++;
    lun->used[i] = lun->used[--lun->count];
    lun->contexts[slot] = NULL;
}

int cxl_lun_remove(struct cxl_lun *lun, uint32_t slot)
{
    struct lun_context *c;

    begin_change(lun);
    c = find(lun, slot);
    if (c) {
        if (!c->gone)
            epoll_ctl(lun->epoll, EPOLL_CTL_DEL, c->bell, NULL);
        forget_slot(lun, slot);
    }
    end_change(lun, 0);
    lun_context_free(c);
    return c ? 0 : -ENOENT;
}

static int check_chunks(const struct cxl_lun *lun, uint64_t blocks, const uint32_t *chunks, uint32_t count)
{
    uint64_t chunk_blocks = lun->chunk_bytes / CXLFLASH_BLOCK, all = lun->dev.capacity / lun->chunk_bytes;

    if (!chunks)
        return blocks <= lun->dev.capacity / CXLFLASH_BLOCK ? 0 : -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        if (chunks[i] >= all)
            return -EINVAL;
    return blocks <= count * chunk_blocks ? 0 : -EINVAL;
}

int cxl_lun_set(struct cxl_lun *lun, uint32_t slot, uint32_t handle, uint64_t blocks, const uint32_t *chunks, uint32_t chunk_count)
{
    uint32_t *copy = NULL;
    struct lun_context *c;
    int err = -ENOENT;

    if (handle >= CXLFLASH_HANDLES_MAX)
        return -EINVAL;
    if (chunks) {
        copy = calloc(chunk_count + 1U, sizeof(*copy));
        if (!copy)
            return -ENOMEM;
        memcpy(copy, chunks, chunk_count * sizeof(*copy));
    }
    begin_change(lun);
    c = find(lun, slot);
    if (c)
        err = check_chunks(lun, blocks, copy, chunk_count);
    if (!err) {
        uint32_t *before = c->handles[handle].chunks;

        c->handles[handle] = (struct lun_handle){.open = true, .direct = !chunks, .blocks = blocks, .chunks = copy};
        copy = before;
    }
    end_change(lun, err);
    free(copy);
    return err;
}

int cxl_lun_clear(struct cxl_lun *lun, uint32_t slot, uint32_t handle)
{
    struct lun_context *c;
    int err = -ENOENT;

    if (handle >= CXLFLASH_HANDLES_MAX)
        return -EINVAL;
    begin_change(lun);
    c = find(lun, slot);
    if (c && c->handles[handle].open) {
        free(c->handles[handle].chunks);
        c->handles[handle] = (struct lun_handle){0};
        err = 0;
    }
    return end_change(lun, err);
}

int cxl_lun_set_blocks(struct cxl_lun *lun, uint64_t blocks)
{
    if (!blocks || blocks > (uint64_t)INT64_MAX / CXLFLASH_BLOCK)
        return -EINVAL;
    begin_change(lun);
    lun->dev.capacity = blocks * CXLFLASH_BLOCK;
    return end_change(lun, 0);
}

void cxl_lun_fail(struct cxl_lun *lun)
{
    begin_change(lun);
    for (uint32_t i = 0; i < lun->count; i++)
        lun_context_say_error(lun->contexts[lun->used[i]]);
    end_change(lun, 0);
}

void cxl_lun_stats(struct cxl_lun *lun, struct cxl_lun_stats *out)
{
    *out = (struct cxl_lun_stats){
        .commands = atomic_load(&lun->counters.commands),
        .blocks_read = atomic_load(&lun->counters.blocks_read),
        .blocks_written = atomic_load(&lun->counters.blocks_written),
        .errors = atomic_load(&lun->counters.errors),
        .refused = atomic_load(&lun->counters.refused),
        .sleeps = atomic_load(&lun->counters.sleeps),
    };
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

static int check_conf(const struct cxl_lun_conf *conf, bool on_fd)
{
    if (!conf || (on_fd && conf->fd < 0) || conf->engine > CBD_ENGINE_INLINE)
        return -EINVAL;
    if (conf->logical_block_size != 512 && conf->logical_block_size != CXLFLASH_BLOCK)
        return -EINVAL;
    if (!conf->blocks || conf->blocks > (uint64_t)INT64_MAX / CXLFLASH_BLOCK)
        return -EINVAL;
    return conf->chunk_blocks >= CXLFLASH_TRANSFER_BLOCKS && conf->chunk_blocks <= UINT32_MAX ? 0 : -EINVAL;
}

static int open_waiting(struct cxl_lun *lun)
{
    lun->epoll = epoll_create1(EPOLL_CLOEXEC);
    lun->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lun->epoll < 0 || lun->event < 0)
        return -errno;
    return watch(lun, lun->event, NULL);
}

static int start(struct cxl_lun *lun, const struct cxl_lun_conf *conf)
{
    enum cbd_engine kind = CBD_ENGINE_SYNC;
    int err = idle_init(&lun->idle, IDLE_FOR_BELL, &conf->idle);

    if (!err)
        err = engine_choose(conf->engine, &kind);
    if (!err)
        err = engine_new(&lun->dev, kind, LUN_IN_FLIGHT, &lun->engine);
    if (!err)
        err = open_waiting(lun);
    if (!err)
        err = thread_start(&lun->thread, "cxl-lun", lun_run, lun);
    return err;
}

static void destroy(struct cxl_lun *lun)
{
    for (uint32_t i = 0; i < lun->count; i++)
        lun_context_free(lun->contexts[lun->used[i]]);
    engine_free(lun->engine);
    if (lun->epoll >= 0)
        close(lun->epoll);
    if (lun->event >= 0)
        close(lun->event);
    pthread_cond_destroy(&lun->resumed);
    pthread_mutex_destroy(&lun->lock);
    free(lun);
}

int lun_new_on(const struct cxl_lun_conf *conf, device_performer *perform, void *ctx, struct cxl_lun **out)
{
    int err = check_conf(conf, !perform);
    struct cxl_lun *lun;

    if (err)
        return err;
    lun = calloc(1, sizeof(*lun));
    if (!lun)
        return -ENOMEM;
    lun->dev = (struct device){
        .perform = perform,
        .ctx = ctx,
        .fd = conf->fd,
        .is_block = conf->is_block,
        .read_only = conf->read_only,
        .logical_block_size = conf->logical_block_size,
        .capacity = conf->blocks * CXLFLASH_BLOCK,
    };
    lun->chunk_bytes = conf->chunk_blocks * CXLFLASH_BLOCK;
    lun->epoll = lun->event = -1;
    pthread_mutex_init(&lun->lock, NULL);
    pthread_cond_init(&lun->resumed, NULL);
    while (lun->free_count < LUN_IN_FLIGHT) {
        lun->free_tags[lun->free_count] = lun->free_count;
        lun->free_count++;
    }
    err = start(lun, conf);
    if (err) {
        destroy(lun);
        return err;
    }
    *out = lun;
    return 0;
}

int cxl_lun_new(const struct cxl_lun_conf *conf, struct cxl_lun **out)
{
    return lun_new_on(conf, NULL, NULL, out);
}

void cxl_lun_free(struct cxl_lun *lun)
{
    if (!lun)
        return;
    begin_change(lun);
    lun->stop = true;
    end_change(lun, 0);
    pthread_join(lun->thread, NULL);
    destroy(lun);
}
