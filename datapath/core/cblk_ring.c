/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "cblk_ring.h"

#include <errno.h>
#include <immintrin.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SLOT_BYTES ((uint64_t)CXLFLASH_TRANSFER_BLOCKS * CXLFLASH_BLOCK)
#define NS_PER_S 1000000000ULL
#define NS_PER_MS 1000000ULL
#define PATIENCE_S 30UL /* for a master that is started anew */
#define PATIENCE_MAX_S 86400UL
#define RECONNECT_NS 20000000U
#define LONGEST_MS 1000 /* a sleep ends by the bell; this is for a bell that got lost in a defect */

static uint64_t data_off(uint32_t depth, uint32_t tag)
{
    return cxlflash_data_off(depth) + tag * SLOT_BYTES;
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

static void ring_bell(const struct cblk_chunk *c)
{
    const struct cxlflash_engine_line *line = (const void *)(c->master + sizeof(struct cxlflash_status_line));

    _mm_mfence();
    if (__atomic_load_n(&line->sleeping, __ATOMIC_RELAXED))
        send(c->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void send_command(struct cblk_chunk *c, uint32_t tag)
{
    const struct cblk_op *op = &c->ops[tag];
    struct cxlflash_command *slot = (void *)(c->user + cxlflash_slot_off(c->depth, c->sent + 1));

    slot->tag = (uint16_t)tag;
    slot->op = (uint8_t)op->op;
    slot->handle = c->handle;
    slot->lba = op->lba;
    slot->blocks = op->blocks;
    __atomic_store_n(&slot->seq, ++c->sent, __ATOMIC_RELEASE);
    ring_bell(c);
}

uint32_t cblk_chunk_pending(const struct cblk_chunk *c)
{
    uint32_t n = 0;

    for (uint32_t tag = 0; tag < c->depth; tag++)
        n += c->ops[tag].state == OP_PENDING;
    return n;
}

static void count_sent(struct cblk_chunk *c, enum cxlflash_op op)
{
    uint64_t *counters[] = {[CXLFLASH_READ] = &c->stats.reads,
                            [CXLFLASH_WRITE] = &c->stats.writes,
                            [CXLFLASH_UNMAP] = &c->stats.unmaps,
                            [CXLFLASH_SYNC] = &c->stats.syncs};

    ++*counters[op];
    if (++c->stats.in_flight > c->stats.most_in_flight)
        c->stats.most_in_flight = c->stats.in_flight;
}

int cblk_chunk_submit(struct cblk_chunk *c, const struct cblk_op *op, const void *data)
{
    uint32_t tag = 0;

    if (c->failed)
        return c->failed;
    while (tag < c->depth && c->ops[tag].state != OP_FREE)
        tag++;
    if (tag == c->depth)
        return -EAGAIN;
    c->ops[tag] = *op;
    c->ops[tag].state = OP_PENDING;
    c->ops[tag].order = ++c->orders;
    if (op->status)
        *op->status = (cblk_arw_status_t){.status = CBLK_ARW_STATUS_PENDING};
    if (op->op == CXLFLASH_WRITE)
        memcpy(c->user + data_off(c->depth, tag), data, (size_t)op->blocks * CXLFLASH_BLOCK);
    count_sent(c, op->op);
    send_command(c, tag);
    return (int)tag;
}

/* ---- responses -------------------------------------------------------------------------------------------------------- */

static void end(struct cblk_chunk *c, uint32_t tag, int32_t result)
{
    struct cblk_op *op = &c->ops[tag];

    op->state = OP_DONE;
    op->order = ++c->orders;
    op->result = result;
    c->stats.in_flight--;
    if (result)
        c->stats.errors++;
    else if (op->op == CXLFLASH_READ)
        c->stats.blocks_read += op->blocks;
    else if (op->op == CXLFLASH_WRITE)
        c->stats.blocks_written += op->blocks;
    if (op->status)
        *op->status = (cblk_arw_status_t){
            .status = result ? CBLK_ARW_STATUS_FAIL : CBLK_ARW_STATUS_SUCCESS,
            .fail_errno = -result,
            .blocks_transferred = result ? 0 : op->blocks,
        };
}

static const struct cxlflash_response *response(const struct cblk_chunk *c, uint64_t seq)
{
    return (const void *)(c->master + cxlflash_slot_off(c->depth, seq));
}

/* Or a later one: whoever watches does so without the lock, and others may be ahead. */
static bool response_there(const struct cblk_chunk *c, uint64_t seq)
{
    return __atomic_load_n(&response(c, seq)->seq, __ATOMIC_ACQUIRE) >= seq;
}

static void harvest(struct cblk_chunk *c)
{
    while (response_there(c, c->got + 1)) {
        const struct cxlflash_response *slot = response(c, c->got + 1);
        uint32_t tag = slot->tag;
        int32_t result = slot->result;

        c->got++;
        if (tag >= c->depth || c->ops[tag].state != OP_PENDING)
            continue; /* no answer to anything of ours */
        if (!result && c->ops[tag].op == CXLFLASH_READ)
            memcpy(c->ops[tag].buf, c->master + data_off(c->depth, tag), (size_t)c->ops[tag].blocks * CXLFLASH_BLOCK);
        end(c, tag, result);
    }
}

bool cblk_in_error(const struct cblk_chunk *c)
{
    const struct cxlflash_status_line *line = (const void *)c->master;

    return c->hung || __atomic_load_n(&line->status, __ATOMIC_ACQUIRE) == CXLFLASH_ERROR;
}

void cblk_chunk_look(struct cblk_chunk *c)
{
    if (c->failed)
        return;
    harvest(c);
    if (cblk_in_error(c))
        cblk_recover(c);
}

/* ---- waiting ---------------------------------------------------------------------------------------------------------- */

static bool nothing_yet(const struct cblk_chunk *c, uint64_t seq)
{
    return !response_there(c, seq) && !cblk_in_error(c);
}

static int sleep_ms(uint64_t deadline_ns)
{
    uint64_t now = idle_now_ns(), ms;

    if (!deadline_ns)
        return LONGEST_MS;
    ms = deadline_ns > now ? (deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS : 0;
    return ms < LONGEST_MS ? (int)ms : LONGEST_MS;
}

static void say_sleeping(const struct cblk_chunk *c, bool sleeping)
{
    struct cxlflash_user_line *line = (void *)c->user;

    __atomic_store_n(&line->sleeping, sleeping, __ATOMIC_RELAXED);
    _mm_mfence();
}

/* Whether the master has closed its end. */
static bool sleep_until_bell(const struct cblk_chunk *c, uint64_t seq, uint64_t deadline_ns)
{
    struct pollfd bell = {.fd = c->bell, .events = POLLIN};
    char bytes[256];
    bool hung = false;

    say_sleeping(c, true);
    if (nothing_yet(c, seq) && poll(&bell, 1, sleep_ms(deadline_ns)) > 0)
        hung = recv(c->bell, bytes, sizeof(bytes), MSG_DONTWAIT) == 0;
    say_sleeping(c, false);
    return hung;
}

static bool over(uint64_t deadline_ns)
{
    return deadline_ns && idle_now_ns() >= deadline_ns;
}

/* By one thread at a time, without the lock: only the thread that watches takes bytes from the bell. Whether that has hung up. */
static bool watch(struct cblk_chunk *c, uint64_t seq, uint64_t deadline_ns)
{
    bool hung = false, slept = false;

    while (nothing_yet(c, seq) && !slept) {
        if (over(deadline_ns))
            return false;
        slept = idle_next(&c->idle);
    }
    if (slept) {
        __atomic_fetch_add(&c->stats.sleeps, 1, __ATOMIC_RELAXED);
        hung = sleep_until_bell(c, seq, deadline_ns);
    }
    if (!nothing_yet(c, seq))
        idle_busy(&c->idle);
    return hung;
}

static void wait_for_watcher(struct cblk_chunk *c, uint64_t deadline_ns)
{
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / NS_PER_S), .tv_nsec = (long)(deadline_ns % NS_PER_S)};

    if (deadline_ns)
        pthread_cond_timedwait(&c->changed, &c->lock, &until);
    else
        pthread_cond_wait(&c->changed, &c->lock);
}

void cblk_chunk_wait(struct cblk_chunk *c, uint64_t deadline_ns)
{
    uint64_t seq = c->got + 1;
    bool hung;

    if (c->watching) {
        wait_for_watcher(c, deadline_ns);
        return;
    }
    c->watching = true;
    pthread_mutex_unlock(&c->lock);
    hung = watch(c, seq, deadline_ns);
    pthread_mutex_lock(&c->lock);
    c->watching = false;
    c->hung |= hung;
    cblk_chunk_look(c);
    pthread_cond_broadcast(&c->changed);
}

static bool something_ended(const struct cblk_chunk *c)
{
    for (uint32_t tag = 0; tag < c->depth; tag++)
        if (c->ops[tag].state == OP_DONE && !c->ops[tag].internal)
            return true;
    return false;
}

int cblk_chunk_arm(struct cblk_chunk *c)
{
    char bytes[256];

    if (something_ended(c))
        return -EALREADY;
    while (recv(c->bell, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
        ;
    say_sleeping(c, true);
    return nothing_yet(c, c->got + 1) ? c->bell : -EALREADY;
}

/* ---- recovery --------------------------------------------------------------------------------------------------------- */

static void fail(struct cblk_chunk *c)
{
    c->failed = -EIO;
    for (uint32_t tag = 0; tag < c->depth; tag++)
        if (c->ops[tag].state == OP_PENDING)
            end(c, tag, -EIO);
}

/* In the order in which they were sent first. What was written is still in the old area. */
static void send_again(struct cblk_chunk *c, const struct cblk_areas *old)
{
    uint64_t last = 0;

    for (;;) {
        struct cblk_op *next = NULL;

        for (uint32_t tag = 0; tag < c->depth; tag++)
            if (c->ops[tag].state == OP_PENDING && c->ops[tag].order > last && (!next || c->ops[tag].order < next->order))
                next = &c->ops[tag];
        if (!next)
            return;
        uint32_t tag = (uint32_t)(next - c->ops);

        last = next->order;
        if (next->op == CXLFLASH_WRITE)
            memcpy(c->user + data_off(c->depth, tag), old->user + data_off(c->depth, tag), (size_t)next->blocks * CXLFLASH_BLOCK);
        send_command(c, tag);
    }
}

static int reset(struct cblk_chunk *c, const struct cxlflash_answer *answer, const int fds[CBLK_DESCRIPTORS])
{
    struct cblk_areas old = {.bell = c->bell, .user = c->user, .master = c->master, .bytes = c->area_bytes, .depth = c->depth};
    struct cblk_areas fresh;
    int err = cblk_map(answer, fds, &fresh);

    if (err)
        return err;
    if (fresh.depth != old.depth) {
        cblk_unmap_areas(&fresh);
        return -EIO;
    }
    cblk_use(c, &fresh);
    send_again(c, &old);
    cblk_unmap_areas(&old);
    c->stats.recoveries++;
    return 0;
}

static uint64_t patience_ns(void)
{
    const char *text = secure_getenv("CBLK_PATIENCE_S");
    char *end;
    unsigned long seconds = text ? strtoul(text, &end, 10) : PATIENCE_S;

    return (!text || (*text && !*end && seconds <= PATIENCE_MAX_S) ? seconds : PATIENCE_S) * NS_PER_S;
}

void cblk_reconnect(struct cblk_chunk *c)
{
    int fd = cblk_connect(c->path);

    if (c->service >= 0)
        close(c->service);
    c->service = fd < 0 ? -1 : fd;
}

/* The next master knows the contexts of its predecessor. */
static int ask_for_recovery(struct cblk_chunk *c, struct cxlflash_answer *answer, int fds[CBLK_DESCRIPTORS])
{
    struct cxlflash_request request = {.service = CXLFLASH_RECOVER_AFU, .context = c->context};
    uint64_t deadline = idle_now_ns() + patience_ns();
    int err;

    while ((err = cblk_ask(c->service, &request, answer, fds)) == -EPIPE && !over(deadline)) {
        idle_sleep(RECONNECT_NS);
        cblk_reconnect(c);
    }
    return err;
}

void cblk_recover(struct cblk_chunk *c)
{
    struct cxlflash_answer answer;
    int fds[CBLK_DESCRIPTORS];
    int err;

    while (c->watching) /* it sees the error, too, and the areas are in its hands until then */
        wait_for_watcher(c, 0);
    if (c->failed || !cblk_in_error(c))
        return;
    harvest(c); /* what was answered before the end */
    err = ask_for_recovery(c, &answer, fds);
    cblk_remember(err ? answer.text : "");
    if (!err && answer.return_flags & CXLFLASH_CONTEXT_RESET)
        err = reset(c, &answer, fds);
    else
        c->hung = false; /* it was the connection */
    if (err)
        fail(c);
    pthread_cond_broadcast(&c->changed);
}
