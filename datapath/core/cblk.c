/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "cblk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "cblk_chunk.h"

#define CHUNKS_MAX 1024
#define DEFAULT_REQUESTS 64
#define NS_PER_US 1000ULL

/* The surface names chunks by number, so that a process has one table of them. */
static struct cblk_chunk *chunks[CHUNKS_MAX];
static pthread_mutex_t chunks_lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t fail(int err)
{
    errno = err == -EPIPE ? EIO : -err; /* whether it is the master or the device that is away */
    return -1;
}

static struct cblk_chunk *find(chunk_id_t id)
{
    return id < 0 || id >= CHUNKS_MAX ? NULL : __atomic_load_n(&chunks[id], __ATOMIC_ACQUIRE);
}

/* The chunk with its lock held; NULL with errno. */
static struct cblk_chunk *enter(chunk_id_t id, int flags, int known)
{
    struct cblk_chunk *c = find(id);

    if (!c || flags & ~known) {
        errno = EINVAL;
        return NULL;
    }
    if (!cblk_chunk_is_ours(c)) {
        errno = EPERM;
        return NULL;
    }
    pthread_mutex_lock(&c->lock);
    return c;
}

static int64_t leave(struct cblk_chunk *c, int64_t result)
{
    pthread_mutex_unlock(&c->lock);
    return result < 0 ? fail((int)result) : result;
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

static uint32_t depth_for(int max_requests)
{
    uint32_t depth = CXLFLASH_DEPTH_MIN;

    while (depth < (uint32_t)(max_requests ? max_requests : DEFAULT_REQUESTS))
        depth *= 2;
    return depth;
}

static chunk_id_t keep(struct cblk_chunk *c)
{
    chunk_id_t id = 0;

    pthread_mutex_lock(&chunks_lock);
    while (id < CHUNKS_MAX && chunks[id])
        id++;
    if (id < CHUNKS_MAX)
        __atomic_store_n(&chunks[id], c, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&chunks_lock);
    return id < CHUNKS_MAX ? id : NULL_CHUNK_ID;
}

chunk_id_t cblk_open(const char *lun, int max_requests, int mode, int flags)
{
    struct cblk_chunk *c;
    chunk_id_t id;
    int err;

    if (max_requests < 0 || max_requests > (int)CXLFLASH_DEPTH_MAX || flags & ~CBLK_OPN_VIRT_LUN ||
        (mode != O_RDONLY && mode != O_RDWR))
        return (chunk_id_t)fail(-EINVAL);
    err = cblk_chunk_open(lun, depth_for(max_requests), mode == O_RDONLY, flags & CBLK_OPN_VIRT_LUN, &c);
    if (err)
        return (chunk_id_t)fail(err);
    id = keep(c);
    if (id == NULL_CHUNK_ID) {
        cblk_chunk_close(c, false);
        return (chunk_id_t)fail(-EMFILE);
    }
    return id;
}

int cblk_close(chunk_id_t id, int flags)
{
    struct cblk_chunk *c = find(id);
    int err;

    if (!c || flags & ~CBLK_SCRUB_DATA_FLG)
        return (int)fail(-EINVAL);
    __atomic_store_n(&chunks[id], NULL, __ATOMIC_RELEASE);
    err = cblk_chunk_close(c, flags & CBLK_SCRUB_DATA_FLG);
    return err ? (int)fail(err) : 0;
}

int cblk_clone_after_fork(chunk_id_t id, int mode, int flags)
{
    struct cblk_chunk *c = find(id);
    int err;

    if (!c || flags || (mode != O_RDONLY && mode != O_RDWR) || cblk_chunk_is_ours(c))
        return (int)fail(-EINVAL);
    err = cblk_chunk_clone(c, mode == O_RDONLY);
    return err ? (int)fail(err) : 0;
}

/* ---- sizes ------------------------------------------------------------------------------------------------------------ */

int cblk_get_lun_size(chunk_id_t id, uint64_t *nblocks, int flags)
{
    struct cxlflash_request request = {.service = CXLFLASH_ATTACH, .flags = CXLFLASH_ATTACH_REUSE};
    struct cxlflash_answer answer;
    struct cblk_chunk *c = enter(id, flags, 0);
    int err;

    if (!c)
        return -1;
    for (size_t i = 0; i < sizeof(request.lun); i++)
        request.lun[i] = c->lun[i];
    err = cblk_chunk_ask(c, &request, &answer);
    if (!err)
        *nblocks = answer.last_lba + 1;
    return (int)leave(c, err);
}

int cblk_get_size(chunk_id_t id, uint64_t *nblocks, int flags)
{
    struct cblk_chunk *c = enter(id, flags, 0);

    if (!c)
        return -1;
    *nblocks = c->blocks;
    return (int)leave(c, 0);
}

int cblk_set_size(chunk_id_t id, uint64_t nblocks, int flags)
{
    struct cxlflash_request request = {.service = CXLFLASH_VLUN_RESIZE, .size = nblocks};
    struct cxlflash_answer answer;
    struct cblk_chunk *c = enter(id, flags, CBLK_SCRUB_DATA_FLG);
    int err;

    if (!c)
        return -1;
    request.handle = c->handle;
    request.flags = flags & CBLK_SCRUB_DATA_FLG ? CXLFLASH_SCRUB : 0;
    err = cblk_chunk_ask(c, &request, &answer);
    if (!err)
        c->blocks = answer.last_lba + 1;
    return (int)leave(c, err);
}

/* ---- synchronous requests --------------------------------------------------------------------------------------------- */

static int64_t one_result(struct cblk_chunk *c, int tag)
{
    struct cblk_op *op = &c->ops[tag];
    int64_t result = op->result ? (int64_t)op->result : (int64_t)op->blocks;

    op->state = OP_FREE;
    return result;
}

static int wait_for(struct cblk_chunk *c, int tag)
{
    cblk_chunk_look(c);
    while (c->ops[tag].state == OP_PENDING)
        cblk_chunk_wait(c, 0);
    return (int)one_result(c, tag);
}

/* Sends what fits, waits for the oldest, and goes on. */
static int64_t transfer(struct cblk_chunk *c, enum cxlflash_op kind, uint8_t *buf, uint64_t lba, uint64_t nblocks, uint32_t most)
{
    int tags[CXLFLASH_DEPTH_MAX], err = 0;
    uint64_t sent = 0, first = 0, last = 0;

    while (sent < nblocks || first < last) {
        uint64_t left = nblocks - sent;
        struct cblk_op op = {.op = kind, .internal = true, .lba = lba + sent, .blocks = left < most ? (uint32_t)left : most};
        uint8_t *at = buf ? buf + sent * CXLFLASH_BLOCK : NULL;
        int tag = -EAGAIN;

        op.buf = at;
        if (left && !err)
            tag = cblk_chunk_submit(c, &op, at);
        if (tag >= 0) {
            tags[last++ % CXLFLASH_DEPTH_MAX] = tag;
            sent += op.blocks;
            continue;
        }
        if (tag != -EAGAIN)
            err = err ? err : tag;
        if (first < last) {
            int result = wait_for(c, tags[first++ % CXLFLASH_DEPTH_MAX]);

            err = !err && result < 0 ? result : err;
        } else if (!err && cblk_chunk_pending(c)) {
            cblk_chunk_wait(c, 0);
        } else {
            return err ? err : -EAGAIN; /* every command waits to be fetched by its tag */
        }
        if (err)
            nblocks = sent;
    }
    return err ? err : (int64_t)nblocks;
}

static int64_t run(chunk_id_t id, enum cxlflash_op kind, void *buf, uint64_t lba, uint64_t nblocks, uint32_t most, int flags)
{
    struct cblk_chunk *c = enter(id, flags, 0);

    if (!c)
        return -1;
    if (!nblocks || nblocks > UINT64_MAX / CXLFLASH_BLOCK || lba > UINT64_MAX - nblocks)
        return leave(c, -EINVAL);
    return leave(c, transfer(c, kind, buf, lba, nblocks, most));
}

int64_t cblk_read(chunk_id_t id, void *buf, uint64_t lba, uint64_t nblocks, int flags)
{
    return buf ? run(id, CXLFLASH_READ, buf, lba, nblocks, CXLFLASH_TRANSFER_BLOCKS, flags) : fail(-EINVAL);
}

int64_t cblk_write(chunk_id_t id, const void *buf, uint64_t lba, uint64_t nblocks, int flags)
{
    if (!buf)
        return fail(-EINVAL);
    return run(id, CXLFLASH_WRITE, (void *)(uintptr_t)buf, lba, nblocks, CXLFLASH_TRANSFER_BLOCKS, flags);
}

int64_t cblk_unmap(chunk_id_t id, uint64_t lba, uint64_t nblocks, int flags)
{
    return run(id, CXLFLASH_UNMAP, NULL, lba, nblocks, CXLFLASH_UNMAP_BLOCKS, flags);
}

int cblk_sync(chunk_id_t id, int flags)
{
    const struct cblk_op op = {.op = CXLFLASH_SYNC, .internal = true};
    struct cblk_chunk *c = enter(id, flags, 0);
    int tag;

    if (!c)
        return -1;
    while ((tag = cblk_chunk_submit(c, &op, NULL)) == -EAGAIN && cblk_chunk_pending(c))
        cblk_chunk_wait(c, 0);
    return (int)leave(c, tag < 0 ? tag : wait_for(c, tag));
}

/* ---- asynchronous requests -------------------------------------------------------------------------------------------- */

static struct cblk_op *find_tag(struct cblk_chunk *c, int tag, bool named)
{
    for (uint32_t i = 0; i < c->depth; i++) {
        struct cblk_op *op = &c->ops[i];

        if (op->state != OP_FREE && !op->internal && op->has_name == named && (named ? op->user_tag : (int)i) == tag)
            return op;
    }
    return NULL;
}

static int begin(struct cblk_chunk *c, const struct cblk_op *op, const void *data, bool patient)
{
    uint32_t most = op->op == CXLFLASH_UNMAP ? CXLFLASH_UNMAP_BLOCKS : CXLFLASH_TRANSFER_BLOCKS;
    int tag;

    if (op->op != CXLFLASH_SYNC && (!op->blocks || op->blocks > most))
        return -EINVAL;
    if (op->has_name && find_tag(c, op->user_tag, true))
        return -EEXIST;
    while ((tag = cblk_chunk_submit(c, op, data)) == -EAGAIN && patient && cblk_chunk_pending(c))
        cblk_chunk_wait(c, 0);
    return tag;
}

static int arw(chunk_id_t id, struct cblk_op *op, const void *data, uint64_t nblocks, int *tag, int flags)
{
    struct cblk_chunk *c = enter(id, flags, CBLK_ARW_WAIT_CMD_FLAG | CBLK_ARW_USER_TAG_FLAG);
    int result = -EINVAL;

    if (!c)
        return -1;
    if (data && tag && nblocks <= CXLFLASH_TRANSFER_BLOCKS) {
        op->blocks = (uint32_t)nblocks;
        op->has_name = flags & CBLK_ARW_USER_TAG_FLAG;
        op->user_tag = op->has_name ? *tag : 0;
        cblk_chunk_look(c);
        result = begin(c, op, data, flags & CBLK_ARW_WAIT_CMD_FLAG);
    }
    if (result >= 0 && !op->has_name)
        *tag = result;
    if (result < 0 && op->status)
        *op->status = (cblk_arw_status_t){.status = CBLK_ARW_STATUS_INVALID, .fail_errno = -result};
    return (int)leave(c, result < 0 ? result : 0);
}

int cblk_aread(chunk_id_t id, void *buf, uint64_t lba, uint64_t nblocks, int *tag, cblk_arw_status_t *status, int flags)
{
    struct cblk_op op = {.op = CXLFLASH_READ, .buf = buf, .lba = lba, .status = status};

    return arw(id, &op, buf, nblocks, tag, flags);
}

int cblk_awrite(chunk_id_t id, const void *buf, uint64_t lba, uint64_t nblocks, int *tag, cblk_arw_status_t *status, int flags)
{
    struct cblk_op op = {.op = CXLFLASH_WRITE, .lba = lba, .status = status};

    return arw(id, &op, buf, nblocks, tag, flags);
}

static struct cblk_op *first_ended(struct cblk_chunk *c, bool named, bool *any)
{
    struct cblk_op *found = NULL;

    *any = false;
    for (uint32_t i = 0; i < c->depth; i++) {
        struct cblk_op *op = &c->ops[i];

        if (op->state == OP_FREE || op->internal || op->has_name != named)
            continue;
        *any = true;
        if (op->state == OP_DONE && (!found || op->order < found->order))
            found = op;
    }
    return found;
}

/* The request that is asked for, once it has ended; NULL with *there: it has not. */
static struct cblk_op *ended(struct cblk_chunk *c, int tag, int flags, bool *there)
{
    struct cblk_op *op;

    if (flags & CBLK_ARESULT_NEXT_TAG)
        return first_ended(c, flags & CBLK_ARESULT_USER_TAG, there);
    op = find_tag(c, tag, flags & CBLK_ARESULT_USER_TAG);
    *there = op;
    return op && op->state == OP_DONE ? op : NULL;
}

int64_t cblk_aresult(chunk_id_t id, int *tag, uint64_t *status, int flags)
{
    struct cblk_chunk *c = enter(id, flags, CBLK_ARESULT_BLOCKING | CBLK_ARESULT_NEXT_TAG | CBLK_ARESULT_USER_TAG);
    struct cblk_op *op;
    int64_t result;
    bool there;

    if (!c)
        return -1;
    if (!tag)
        return leave(c, -EINVAL);
    cblk_chunk_look(c);
    while (!(op = ended(c, *tag, flags, &there)) && there && flags & CBLK_ARESULT_BLOCKING)
        cblk_chunk_wait(c, 0);
    if (status)
        *status = op && op->result ? CBLK_ARW_STATUS_FAIL : op ? CBLK_ARW_STATUS_SUCCESS : CBLK_ARW_STATUS_PENDING;
    if (!op)
        return leave(c, there ? 0 : -ENOENT);
    *tag = op->has_name ? op->user_tag : (int)(op - c->ops);
    result = one_result(c, (int)(op - c->ops));
    return leave(c, result);
}

/* ---- lists ------------------------------------------------------------------------------------------------------------ */

static void issue_one(struct cblk_chunk *c, cblk_io_t *io)
{
    struct cblk_op op = {.op = (enum cxlflash_op)io->request_type, .buf = io->buf, .lba = io->lba, .status = &io->stat};
    bool sound = op.op >= CXLFLASH_READ && op.op <= CXLFLASH_SYNC && io->nblocks <= CXLFLASH_UNMAP_BLOCKS;
    int tag = -EINVAL;

    op.blocks = op.op == CXLFLASH_SYNC ? 0 : (uint32_t)io->nblocks;
    if (sound && (io->buf || op.op > CXLFLASH_WRITE))
        tag = begin(c, &op, io->buf, true);
    io->tag = tag;
    if (tag < 0)
        io->stat = (cblk_arw_status_t){.status = CBLK_ARW_STATUS_INVALID, .fail_errno = -tag};
}

static bool all_ended(cblk_io_t *list[], int n)
{
    for (int i = 0; i < n; i++)
        if (list[i]->stat.status == CBLK_ARW_STATUS_PENDING)
            return false;
    return true;
}

/* Hands over what has ended and frees its command. A negative tag says that it was handed over before, or never sent. */
static void hand_over(struct cblk_chunk *c, cblk_io_t *list[], int n, cblk_io_t *completion[], int room, int *completed)
{
    for (int i = 0; i < n && *completed < room; i++) {
        struct cblk_op *op = list[i]->tag >= 0 ? find_tag(c, list[i]->tag, false) : NULL;

        if (!op || op->state != OP_DONE || op->status != &list[i]->stat)
            continue;
        op->state = OP_FREE;
        list[i]->tag = -1;
        completion[(*completed)++] = list[i];
    }
}

static bool sound_list(cblk_io_t *list[], int n)
{
    if (n < 0 || (n && !list))
        return false;
    for (int i = 0; i < n; i++)
        if (!list[i])
            return false;
    return true;
}

int cblk_listio(chunk_id_t id, cblk_io_t *issue[], int issues, cblk_io_t *pending[], int pendings, cblk_io_t *wait[], int waits,
                cblk_io_t *completion[], int *completed, uint64_t timeout_us, int flags)
{
    struct cblk_chunk *c = enter(id, flags, 0);
    uint64_t deadline = timeout_us ? idle_now_ns() + timeout_us * NS_PER_US : 0;
    int room;

    if (!c)
        return -1;
    if (!sound_list(issue, issues) || !sound_list(pending, pendings) || !sound_list(wait, waits) || !completed || *completed < 0 ||
        (*completed && !completion))
        return (int)leave(c, -EINVAL);
    room = *completed;
    *completed = 0;
    for (int i = 0; i < issues; i++)
        issue_one(c, issue[i]);
    cblk_chunk_look(c);
    while (!all_ended(wait, waits) && !(deadline && idle_now_ns() >= deadline))
        cblk_chunk_wait(c, deadline);
    hand_over(c, issue, issues, completion, room, completed);
    hand_over(c, pending, pendings, completion, room, completed);
    hand_over(c, wait, waits, completion, room, completed);
    return (int)leave(c, all_ended(wait, waits) ? 0 : -ETIMEDOUT);
}

/* ---- about a chunk ---------------------------------------------------------------------------------------------------- */

int cblk_get_stats(chunk_id_t id, struct cblk_stats *stats, int flags)
{
    struct cblk_chunk *c = enter(id, flags, 0);

    if (!c)
        return -1;
    *stats = c->stats;
    return (int)leave(c, 0);
}

int cblk_get_attrs(chunk_id_t id, struct cblk_attrs *attrs, int flags)
{
    struct cblk_chunk *c = enter(id, flags, 0);

    if (!c)
        return -1;
    *attrs = (struct cblk_attrs){
        .context = c->context,
        .handle = c->handle,
        .flags = (c->is_virtual ? CBLK_ATTR_VIRTUAL : 0) | (c->read_only ? CBLK_ATTR_READ_ONLY : 0),
        .block_size = CXLFLASH_BLOCK,
        .max_transfer = CXLFLASH_TRANSFER_BLOCKS,
        .max_requests = c->depth,
        .chunk_blocks = c->is_virtual ? c->chunk_blocks : 0,
    };
    return (int)leave(c, 0);
}

int cblk_get_fd(chunk_id_t id)
{
    struct cblk_chunk *c = enter(id, 0, 0);

    if (!c)
        return -1;
    cblk_chunk_look(c);
    return (int)leave(c, c->failed ? c->failed : cblk_chunk_arm(c));
}
