/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "cblk_chunk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cblk_client.h"
#include "cblk_ring.h"

#define NO_DESCRIPTORS {-1, -1, -1}

static _Thread_local char last_error[256];

void cblk_remember(const char *text)
{
    memcpy(last_error, text, strnlen(text, sizeof(last_error) - 1) + 1); /* the text of an answer ends in a NUL */
}

const char *cblk_last_error(void)
{
    return last_error;
}

static void close_all(const int fds[CBLK_DESCRIPTORS])
{
    for (int i = 0; i < CBLK_DESCRIPTORS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* ---- the service socket ----------------------------------------------------------------------------------------------- */

static int ask(struct cblk_chunk *c, struct cxlflash_request *request, struct cxlflash_answer *answer, int fds[CBLK_DESCRIPTORS])
{
    int err = cblk_ask(c->service, request, answer, fds);

    cblk_remember(err ? answer->text : "");
    if (err)
        close_all(fds);
    return err;
}

int cblk_chunk_ask(struct cblk_chunk *c, struct cxlflash_request *request, struct cxlflash_answer *answer)
{
    int fds[CBLK_DESCRIPTORS] = NO_DESCRIPTORS;
    int err;

    request->context = c->context;
    do { /* the data path may go after we looked */
        cblk_chunk_look(c);
        if (c->failed)
            return c->failed;
        err = ask(c, request, answer, fds);
        c->hung |= err == -EPIPE;
    } while ((err == -EIO || err == -EPIPE) && cblk_in_error(c));
    if (!err)
        close_all(fds);
    return err;
}

/* ---- areas ------------------------------------------------------------------------------------------------------------ */

/* Not inherited by children: their stray stores must not reach the master in our name. */
static void *map_area(int fd, uint64_t bytes, int protection)
{
    struct stat st;
    void *at;

    if (fd < 0 || fstat(fd, &st) || (uint64_t)st.st_size != bytes)
        return NULL;
    at = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return NULL;
    madvise(at, bytes, MADV_DONTFORK);
    return at;
}

int cblk_map(const struct cxlflash_answer *answer, const int fds[CBLK_DESCRIPTORS], struct cblk_areas *out)
{
    uint32_t depth = answer->depth;
    bool sound = depth >= CXLFLASH_DEPTH_MIN && depth <= CXLFLASH_DEPTH_MAX && !(depth & (depth - 1)) && fds[0] >= 0;

    *out = (struct cblk_areas){.bell = fds[0], .depth = depth, .bytes = sound ? cxlflash_area_bytes(depth) : 0};
    if (sound) {
        out->user = map_area(fds[1], out->bytes, PROT_READ | PROT_WRITE);
        out->master = map_area(fds[2], out->bytes, PROT_READ);
    }
    if (fds[1] >= 0)
        close(fds[1]);
    if (fds[2] >= 0)
        close(fds[2]);
    if (out->user && out->master)
        return 0;
    cblk_unmap_areas(out);
    return -EIO;
}

void cblk_unmap_areas(const struct cblk_areas *areas)
{
    if (areas->user)
        munmap(areas->user, areas->bytes);
    if (areas->master)
        munmap((void *)(uintptr_t)areas->master, areas->bytes);
    if (areas->bell >= 0)
        close(areas->bell);
}

void cblk_use(struct cblk_chunk *c, const struct cblk_areas *areas)
{
    c->bell = areas->bell;
    c->user = areas->user;
    c->master = areas->master;
    c->area_bytes = areas->bytes;
    c->depth = areas->depth;
    c->sent = c->got = 0;
    c->hung = false;
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

static int attach(struct cblk_chunk *c, uint32_t depth)
{
    struct cxlflash_request request = {.service = CXLFLASH_ATTACH, .depth = depth};
    int fds[CBLK_DESCRIPTORS] = NO_DESCRIPTORS;
    struct cxlflash_answer answer;
    struct cblk_areas areas;
    int err;

    request.flags = c->read_only ? CXLFLASH_ATTACH_READ_ONLY : 0;
    memcpy(request.lun, c->lun, sizeof(request.lun));
    err = ask(c, &request, &answer, fds);
    if (!err)
        err = cblk_map(&answer, fds, &areas);
    if (err)
        return err;
    cblk_use(c, &areas);
    c->context = answer.context;
    c->chunk_blocks = answer.chunk_blocks;
    return 0;
}

static int open_handle(struct cblk_chunk *c)
{
    struct cxlflash_request request = {.service = c->is_virtual ? CXLFLASH_USER_VIRTUAL : CXLFLASH_USER_DIRECT};
    struct cxlflash_answer answer;
    int err = cblk_chunk_ask(c, &request, &answer);

    if (!err) {
        c->handle = answer.handle;
        c->blocks = answer.last_lba + 1;
    }
    return err;
}

static int mark_owner(struct cblk_chunk *c)
{
    uint8_t *page = mmap(NULL, CXLFLASH_BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED || madvise(page, CXLFLASH_BLOCK, MADV_WIPEONFORK))
        return -errno;
    *page = 1;
    c->owner = page;
    return 0;
}

bool cblk_chunk_is_ours(const struct cblk_chunk *c)
{
    return *c->owner;
}

static void init_locks(struct cblk_chunk *c)
{
    pthread_condattr_t monotonic;

    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

static void release(struct cblk_chunk *c)
{
    struct cblk_areas areas = {.bell = c->bell, .user = c->user, .master = c->master, .bytes = c->area_bytes};

    cblk_unmap_areas(&areas);
    if (c->service >= 0)
        close(c->service);
    if (c->owner)
        munmap((void *)(uintptr_t)c->owner, CXLFLASH_BLOCK);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static int connect_and_open(struct cblk_chunk *c, uint32_t depth)
{
    int err;

    c->service = cblk_connect(c->path);
    if (c->service < 0)
        return c->service;
    err = attach(c, depth);
    return err ? err : open_handle(c);
}

int cblk_chunk_open(const char *lun, uint32_t depth, bool read_only, bool is_virtual, struct cblk_chunk **out)
{
    const struct cbd_idle_conf defaults = {0};
    struct cblk_chunk *c = calloc(1, sizeof(*c));
    int err;

    if (!c)
        return -ENOMEM;
    c->service = c->bell = -1;
    c->read_only = read_only;
    c->is_virtual = is_virtual;
    init_locks(c);
    err = cblk_parse(lun, c->path, c->lun);
    if (!err)
        err = idle_init(&c->idle, IDLE_FOR_BELL, &defaults);
    if (!err)
        err = mark_owner(c);
    if (!err)
        err = connect_and_open(c, depth);
    if (err) {
        release(c);
        return err;
    }
    *out = c;
    return 0;
}

int cblk_chunk_close(struct cblk_chunk *c, bool scrub)
{
    struct cxlflash_request request = {.service = CXLFLASH_DETACH, .context = c->context, .flags = scrub ? CXLFLASH_SCRUB : 0};
    int fds[CBLK_DESCRIPTORS] = NO_DESCRIPTORS;
    struct cxlflash_answer answer;
    int err = 0;

    if (cblk_chunk_is_ours(c)) { /* otherwise it is the parent's, who goes on with it */
        pthread_mutex_lock(&c->lock);
        while (cblk_chunk_pending(c) && !c->failed) /* buffers are the caller's again afterwards */
            cblk_chunk_wait(c, 0);
        pthread_mutex_unlock(&c->lock);
        err = ask(c, &request, &answer, fds);
        if (err == -EPIPE) { /* the next master, if it is there already, has the context, too */
            cblk_reconnect(c);
            err = ask(c, &request, &answer, fds);
        }
        if (!err)
            close_all(fds);
    } else {
        c->user = NULL; /* not inherited: something else may be there now */
        c->master = NULL;
    }
    release(c);
    return err;
}

/* ---- after a fork ------------------------------------------------------------------------------------------------------- */

static int clone_handles(struct cblk_chunk *c, uint64_t source)
{
    struct cxlflash_request clone = {.service = CXLFLASH_VLUN_CLONE, .source = source};
    struct cxlflash_request verify = {.service = CXLFLASH_VERIFY, .handle = c->handle};
    struct cxlflash_answer answer;
    int err = cblk_chunk_ask(c, &clone, &answer);

    if (!err)
        err = cblk_chunk_ask(c, &verify, &answer);
    if (!err)
        c->blocks = answer.last_lba + 1;
    return err;
}

/* Descriptors of the parent's context are closed here; the mappings did not come along. */
int cblk_chunk_clone(struct cblk_chunk *c, bool read_only)
{
    uint64_t source = c->context;
    int err;

    close(c->service);
    close(c->bell);
    c->bell = -1;
    c->user = NULL;
    c->master = NULL;
    init_locks(c);
    c->watching = false;
    c->read_only = read_only;
    c->stats = (struct cblk_stats){0};
    memset(c->ops, 0, sizeof(c->ops));
    c->failed = 0;
    c->service = cblk_connect(c->path);
    err = c->service < 0 ? c->service : attach(c, c->depth);
    if (!err)
        err = c->is_virtual ? clone_handles(c, source) : open_handle(c);
    if (err)
        c->failed = -EIO;
    *(uint8_t *)(uintptr_t)c->owner = 1;
    return err;
}
