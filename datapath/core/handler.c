/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "handler.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "channel.h"
#include "crc.h"
#include "engine.h"
#include "idle.h"
#include "lookout.h"
#include "protocol.h"
#include "request.h"
#include "ring.h"
#include "stats.h"
#include "submission.h"
#include "thread.h"

#define STEP_SUMMED 65536U /* bytes: what the device has just put into a second-level cache is summed from there */

struct handler {
    struct handler_shared *shared;
    struct channel ch;
    struct ring submissions, completions;
    struct idle idle;
    struct stats stats;
    struct engine *engine;
    struct request *requests; /* by tag */
    struct ended *ended;      /* scratch of a turn; one per tag */
    uint8_t *bounces;         /* slot_bytes per tag; aligned to pages like the data slots, which is what O_DIRECT wants */
    uint32_t in_flight;
    bool fenced;
    atomic_bool stop;
    pthread_t thread;
};

/* Whether somebody has declared this host dead; the handler ends then. */
static bool find_fence(struct handler *h)
{
    h->fenced = h->fenced || fence_raised(&h->shared->fence);
    return h->fenced;
}

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

static void answer(struct handler *h, struct cbd_slot *done)
{
    done->credit = (uint32_t)h->submissions.seq;
    stats_request(&h->stats, done->op, done->len, done->result);
    ring_produce(&h->completions, done);
}

static struct cbd_slot completion_of(const struct cbd_slot *s, int32_t result)
{
    return (struct cbd_slot){.op = s->op, .tag = s->tag, .tid = s->tid, .offset = s->offset, .len = s->len, .result = result};
}

/* Rare, so that it has a look at the fence of its own. */
static void refuse(struct handler *h, struct cbd_slot *done)
{
    if (!find_fence(h))
        answer(h, done);
}

static void refuse_request(struct handler *h, const struct cbd_slot *s, int32_t error)
{
    struct cbd_slot done = completion_of(s, error);

    refuse(h, &done);
}

static void refuse_unreadable(struct handler *h)
{
    struct cbd_slot done = {.tag = CBD_NO_TAG, .tid = h->submissions.seq, .result = -EIO};

    stats_count(&h->stats.bad_slots, 1);
    refuse(h, &done);
}

/* Whether the device's bytes go straight into the data slot. Only where that happens right after a look at the fence: a slow device
 * could write there long after the channel was given to somebody else. */
static bool in_place(const struct handler *h)
{
    return h->shared->engine == CBD_ENGINE_INLINE;
}

/* What give_buffers() wanted read in pieces. */
static bool sums_each_step(const struct request *r)
{
    return r->read_max && r->slot.op == CBD_READ;
}

/* In its place the peer can change the payload under us, and then it is the peer's own answer that fails its CRC. Fills the payload
 * fields of the completion. */
static void put_read_payload(struct handler *h, const struct request *r, struct cbd_slot *done)
{
    bool summed = channel_data_crc(&h->ch);
    uint32_t len = r->slot.len;
    uint64_t off;

    done->data_off = channel_data_off(&h->ch, r->slot.tag);
    done->data_len = len;
    done->flags = summed ? CBD_SLOT_DATA_CRC : 0;
    off = h->ch.responses + done->data_off;
    if (in_place(h)) {
        done->data_crc = r->answer_crc;
        ring_publish_payload(&h->ch.map, off, len);
    } else if (summed) {
        done->data_crc = ring_put_payload_summed(&h->ch.map, off, r->answer, len);
    } else {
        ring_put_payload(&h->ch.map, off, r->answer, len);
    }
}

static void finish(struct handler *h, struct request *r)
{
    struct cbd_slot done = completion_of(&r->slot, r->result);

    if (r->slot.op == CBD_READ && !r->result)
        put_read_payload(h, r, &done);
    r->in_flight = false;
    h->in_flight--;
    answer(h, &done);
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

static void advance(struct handler *h, struct request *r)
{
    struct step step;

    if (request_next(r, &h->shared->dev, &step))
        engine_start(h->engine, r->slot.tag, &step);
    else
        finish(h, r);
}

static int get_write_payload(struct handler *h, const struct cbd_slot *s, uint8_t *bounce)
{
    uint64_t off = h->ch.requests + s->data_off;
    uint64_t rereads = 0;
    int err = 0;

    if (channel_data_crc(&h->ch))
        err = ring_get_payload_checked(&h->ch.map, off, bounce, s->len, s->data_crc, &rereads);
    else
        ring_get_payload(&h->ch.map, off, bounce, s->len);
    stats_count(&h->stats.crc_retries, rereads);
    return err;
}

static bool slot_ok(const struct handler *h, const struct cbd_slot *s)
{
    if (submission_check(&h->ch, &h->shared->dev, s))
        return false;
    if (!submission_credit_ok(&h->ch, s, h->submissions.seq, h->completions.seq))
        return false;
    return !h->requests[s->tag].in_flight; /* two requests never share a bounce */
}

static bool read_only(const struct handler *h)
{
    return h->shared->dev.read_only || (h->ch.conf.flags & CBD_CHANNEL_READ_ONLY);
}

static void serve(struct handler *h, const struct cbd_slot *s)
{
    struct request *r;
    int err = 0;

    if (!slot_ok(h, s)) {
        stats_count(&h->stats.bad_slots, 1);
        refuse_request(h, s, -EINVAL);
        return;
    }
    r = &h->requests[s->tag];
    if (cbd_op_changes_medium(s->op) && read_only(h))
        err = -EROFS;
    else if (s->op == CBD_WRITE)
        err = get_write_payload(h, s, r->bounce);
    if (err) {
        refuse_request(h, s, err);
        return;
    }
    request_begin(r, s);
    h->in_flight++;
    advance(h, r);
}

/* ---- the thread ------------------------------------------------------------------------------------------------------- */

struct taken {
    struct cbd_slot slot;
    bool readable;
};

static bool stopping(const struct handler *h)
{
    return atomic_load_explicit(&h->stop, memory_order_relaxed);
}

/* Whether a submission was there. */
static bool take(struct handler *h, struct taken *t)
{
    uint64_t rereads = 0;
    enum ring_got got;

    if (stopping(h) || !engine_has_room(h->engine, h->in_flight))
        return false;
    got = ring_consume(&h->submissions, &t->slot, &rereads);
    if (rereads)
        stats_count(&h->stats.crc_retries, rereads);
    t->readable = got == RING_SLOT;
    return got == RING_SLOT || got == RING_BAD;
}

/* At most one lap of the ring: what has ended meanwhile must not wait for ever. Nothing reaches the device here. Whether a
 * submission was there. */
static bool take_some(struct handler *h)
{
    struct taken t;
    uint32_t n = 0;

    while (n < h->ch.conf.ring_depth && !h->fenced && take(h, &t)) {
        n++;
        if (t.readable)
            serve(h, &t.slot);
        else
            refuse_unreadable(h);
    }
    return n;
}

static void go_on(struct handler *h, const struct ended *ended)
{
    struct request *r = &h->requests[ended->tag];

    if (sums_each_step(r) && ended->result > 0)
        r->answer_crc = cxl_crc32c(r->answer_crc, r->answer + r->done, (size_t)ended->result);
    request_step_ended(r, ended->result);
    advance(h, r);
}

/* One look at both sides. The fence line is looked at after the payload was checked, which takes time in which a frozen host can
 * have been taken for dead, and right before anything reaches the device; and once more before anything is answered or continued.
 * Whether there was something to do. */
static bool turn(struct handler *h)
{
    bool taken = take_some(h);
    uint32_t ended;

    if (engine_unsubmitted(h->engine)) {
        if (find_fence(h))
            return true;
        engine_submit(h->engine);
    }
    ended = engine_reap(h->engine, h->ended, h->ch.conf.ring_depth);
    if (ended && find_fence(h))
        return true;
    for (uint32_t i = 0; i < ended; i++)
        go_on(h, &h->ended[i]);
    return taken || ended || h->fenced;
}

static void wait(struct handler *h)
{
    uint64_t ns = idle_next(&h->idle);

    if (!ns)
        return;
    if (h->in_flight)
        engine_wait(h->engine, ns);
    else if (ns < h->idle.cap_ns)
        idle_sleep(ns);
    else
        lookout_wait(&h->shared->lookout, &h->submissions, &h->stop);
}

enum handler_did handler_turn(struct handler *h)
{
    if (!h->fenced && (!stopping(h) || h->in_flight))
        return turn(h) ? HANDLER_WORKED : HANDLER_IDLED;
    if (h->fenced) {
        atomic_store(&h->shared->fenced, true);
        engine_abandon(h->engine);
    }
    return HANDLER_ENDED;
}

static void *run(void *arg)
{
    struct handler *h = arg;
    enum handler_did did;

    while ((did = handler_turn(h)) != HANDLER_ENDED) {
        if (did == HANDLER_WORKED)
            idle_busy(&h->idle);
        else
            wait(h);
    }
    return NULL;
}

/* ---- life ------------------------------------------------------------------------------------------------------------- */

static void give_buffers(struct handler *h, uint32_t tag)
{
    uint32_t off = channel_data_off(&h->ch, tag), bytes = h->ch.conf.slot_bytes;
    struct request *r = &h->requests[tag];

    r->bounce = h->bounces + off;
    r->bounce_len = bytes;
    r->read_max = in_place(h) && channel_data_crc(&h->ch) ? STEP_SUMMED : 0;
    r->answer = in_place(h) ? mem_window(&h->ch.map, h->ch.responses + off, bytes) : r->bounce;
}

static int allocate(struct handler *h)
{
    uint32_t depth = h->ch.conf.ring_depth;
    void *area = mmap(NULL, h->ch.data_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    h->bounces = area == MAP_FAILED ? NULL : area;
    h->requests = calloc(depth, sizeof(*h->requests));
    h->ended = calloc(depth, sizeof(*h->ended));
    if (!h->bounces || !h->requests || !h->ended)
        return -ENOMEM;
    for (uint32_t tag = 0; tag < depth; tag++)
        give_buffers(h, tag);
    return 0;
}

int handler_new(struct handler_shared *shared, const struct cbd_channel_conf *conf, struct handler **out)
{
    struct handler *h = calloc(1, sizeof(*h));
    int err = h ? channel_init(&h->ch, &shared->mem, conf) : -ENOMEM;

    if (h)
        h->shared = shared;
    if (!err)
        err = idle_init(&h->idle, IDLE_FOR_WORK, &shared->idle);
    if (!err)
        err = allocate(h);
    if (!err)
        err = engine_new(&shared->dev, shared->engine, conf->ring_depth, &h->engine);
    if (err) {
        handler_free(h);
        return err;
    }
    ring_init(&h->submissions, &h->ch.map, h->ch.submissions, conf->ring_depth, conf->epoch);
    ring_init(&h->completions, &h->ch.map, h->ch.completions, conf->ring_depth, conf->epoch);
    *out = h;
    return 0;
}

int handler_start(struct handler_shared *shared, const struct cbd_channel_conf *conf, struct handler **out)
{
    struct handler *h;
    int err = handler_new(shared, conf, &h);

    if (err)
        return err;
    err = thread_start(&h->thread, "cbd-handler", run, h);
    if (err) {
        handler_free(h);
        return err;
    }
    *out = h;
    return 0;
}

void handler_finish(struct handler *h)
{
    atomic_store_explicit(&h->stop, true, memory_order_relaxed);
}

void handler_stop(struct handler *h)
{
    handler_finish(h);
    pthread_join(h->thread, NULL);
}

void handler_free(struct handler *h)
{
    if (!h)
        return;
    engine_free(h->engine);
    if (h->bounces)
        munmap(h->bounces, h->ch.data_bytes);
    free(h->requests);
    free(h->ended);
    free(h);
}

uint64_t handler_channel_off(const struct handler *h)
{
    return h->ch.conf.channel_off;
}

void handler_sum_stats(const struct handler *h, struct cbd_stats *sum)
{
    stats_sum(&h->stats, sum);
}
