/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The blkdev's end of a channel. A completion is believed only as far as it names a request that the backend has; once it does,
 * the request ends, with -EIO when anything else in the slot does not fit.
 */
#include "queue.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "channel.h"
#include "idle.h"
#include "protocol.h"
#include "ring.h"
#include "stats.h"

#define LOOKS_PER_CLOCK 16U /* reading the clock can cost more than a look */

enum state {
    FREE,
    SENT,      /* the backend has it */
    ABANDONED, /* the backend has it, and nobody waits for it */
    ENDED,     /* no answer is wanted any more; the result is still to be reported */
};

struct request {
    uint64_t tid;
    uint64_t offset;
    uint64_t user;
    void *buf;
    uint32_t len;
    int32_t result; /* of an ended one */
    uint8_t op, flags;
    uint8_t state; /* enum state */
};

struct cbd_queue {
    struct cxl_mem mem;
    struct channel ch;
    struct ring submissions, completions;
    struct idle idle;
    struct stats stats;
    int32_t offline;    /* 0, or what submissions fail with; the rings are not looked at */
    uint32_t in_flight; /* tags in use */
    uint32_t ended;     /* of these: not with the backend any more */
    uint32_t lost;      /* completions that could not be read since nothing was in flight */
    uint16_t *free_tags;
    struct request *requests; /* by tag */
};

/* From the first slot, with nothing that was on other rings. */
static void use_rings(struct cbd_queue *q)
{
    const struct cbd_channel_conf *conf = &q->ch.conf;

    ring_init(&q->submissions, &q->ch.map, q->ch.submissions, conf->ring_depth, conf->epoch);
    ring_init(&q->completions, &q->ch.map, q->ch.completions, conf->ring_depth, conf->epoch);
    q->lost = 0;
    q->offline = 0;
}

int cbd_queue_new(const struct cxl_mem *mem, const struct cbd_channel_conf *conf, struct cbd_queue **out)
{
    static const struct cbd_idle_conf defaults = {0};
    struct cbd_queue *q = calloc(1, sizeof(*q));
    int err = q ? channel_init(&q->ch, mem, conf) : -ENOMEM;

    if (err)
        goto fail;
    q->requests = calloc(conf->ring_depth, sizeof(*q->requests));
    q->free_tags = calloc(conf->ring_depth, sizeof(*q->free_tags));
    err = -ENOMEM;
    if (!q->requests || !q->free_tags)
        goto fail;
    for (uint32_t i = 0; i < conf->ring_depth; i++)
        q->free_tags[i] = (uint16_t)(conf->ring_depth - 1 - i);
    q->mem = *mem;
    use_rings(q);
    idle_init(&q->idle, IDLE_FOR_ANSWER, &defaults);
    *out = q;
    return 0;
fail:
    cbd_queue_free(q);
    return err;
}

void cbd_queue_free(struct cbd_queue *q)
{
    if (!q)
        return;
    free(q->requests);
    free(q->free_tags);
    free(q);
}

/* ---- submission ------------------------------------------------------------------------------------------------------ */

static bool arguments_ok(const struct cbd_queue *q, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, const void *buf)
{
    if (!cbd_op_known(op) || (flags & ~(cbd_op_may_fua(op) ? (uint32_t)CBD_FUA : 0U)))
        return false;
    if (op == CBD_FLUSH)
        return !offset && !len;
    if (!len || offset > UINT64_MAX - len)
        return false;
    return !cbd_op_has_payload(op) || (buf && len <= q->ch.conf.slot_bytes);
}

static void put_write_payload(struct cbd_queue *q, struct cbd_slot *slot, const void *buf)
{
    uint64_t off;

    slot->data_off = channel_data_off(&q->ch, slot->tag);
    slot->data_len = slot->len;
    off = q->ch.requests + slot->data_off;
    if (channel_data_crc(&q->ch)) {
        slot->flags |= CBD_SLOT_DATA_CRC;
        slot->data_crc = ring_put_payload_summed(&q->ch.map, off, buf, slot->len);
    } else {
        ring_put_payload(&q->ch.map, off, buf, slot->len);
    }
}

/* Puts the request on the ring, for the first time or once more. */
static void produce(struct cbd_queue *q, struct request *r)
{
    struct cbd_slot slot = {
        .op = r->op,
        .flags = (r->flags & CBD_FUA) ? CBD_SLOT_FUA : 0,
        .tag = (uint16_t)(r - q->requests),
        .tid = q->submissions.seq + 1,
        .offset = r->offset,
        .len = r->len,
        .credit = (uint32_t)q->completions.seq,
    };

    r->tid = slot.tid;
    if (r->op == CBD_WRITE)
        put_write_payload(q, &slot, r->buf);
    ring_produce(&q->submissions, &slot);
}

int cbd_queue_submit(struct cbd_queue *q, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, void *buf, uint64_t user)
{
    struct request *r;

    if (!arguments_ok(q, op, flags, offset, len, buf))
        return -EINVAL;
    if (!q->offline && fence_raised(&q->ch.fence))
        cbd_queue_set_offline(q, -EIO);
    if (q->offline)
        return q->offline;
    /* After a lost completion nothing new starts until what is left in flight is known to be what was lost. */
    if (q->in_flight == q->ch.conf.ring_depth || q->lost)
        return -EAGAIN;
    r = &q->requests[q->free_tags[q->ch.conf.ring_depth - 1 - q->in_flight]];
    *r = (struct request){
        .offset = offset, .user = user, .buf = buf, .len = len, .op = (uint8_t)op, .flags = (uint8_t)flags, .state = SENT};
    q->in_flight++;
    stats_count(&q->stats.submitted, 1);
    produce(q, r);
    return 0;
}

/* ---- completion ------------------------------------------------------------------------------------------------------ */

/* Gives the tag back. */
static void release(struct cbd_queue *q, struct request *r, int32_t result)
{
    q->in_flight--;
    q->free_tags[q->ch.conf.ring_depth - 1 - q->in_flight] = (uint16_t)(r - q->requests);
    q->ended -= r->state == ENDED;
    if (!q->in_flight)
        q->lost = 0;
    r->state = FREE;
    stats_request(&q->stats, r->op, r->len, result);
}

/* Returns how many completions it reported (0 for an abandoned request). */
static uint32_t finish(struct cbd_queue *q, struct request *r, int32_t result, struct cbd_completion *out)
{
    bool wanted = r->state != ABANDONED;

    release(q, r, result);
    if (wanted)
        *out = (struct cbd_completion){.user = r->user, .result = result, .len = r->len};
    return wanted;
}

/* Expects no answers any more. */
static void end_all(struct cbd_queue *q, int32_t error)
{
    for (uint32_t tag = 0; tag < q->ch.conf.ring_depth; tag++) {
        struct request *r = &q->requests[tag];

        if (r->state == ABANDONED) {
            release(q, r, error);
        } else if (r->state == SENT) {
            r->state = ENDED;
            r->result = error;
            q->ended++;
        }
    }
    q->lost = 0;
}

static uint32_t report_ended(struct cbd_queue *q, struct cbd_completion *out, uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t tag = 0; q->ended && n < max && tag < q->ch.conf.ring_depth; tag++) {
        struct request *r = &q->requests[tag];

        if (r->state == ENDED)
            n += finish(q, r, r->result, out + n);
    }
    return n;
}

static struct request *find(struct cbd_queue *q, const struct cbd_slot *slot)
{
    if (slot->tag < q->ch.conf.ring_depth) {
        struct request *r = &q->requests[slot->tag];

        return r->state != FREE && r->tid == slot->tid ? r : NULL;
    }
    if (slot->tag != CBD_NO_TAG || slot->result >= 0)
        return NULL;
    for (uint32_t tag = 0; tag < q->ch.conf.ring_depth; tag++) {
        struct request *r = &q->requests[tag];

        if (r->state != FREE && r->tid == slot->tid)
            return r;
    }
    return NULL;
}

static bool answer_ok(const struct cbd_queue *q, const struct request *r, const struct cbd_slot *slot)
{
    bool payload = r->op == CBD_READ && !slot->result;
    uint8_t flags = payload && channel_data_crc(&q->ch) ? CBD_SLOT_DATA_CRC : 0;

    if (slot->op != r->op || slot->offset != r->offset || slot->len != r->len || slot->flags != flags || slot->reserved)
        return false;
    if (slot->result > 0 || slot->result < -CBD_MAX_ERRNO)
        return false;
    if (cbd_behind(q->submissions.seq, slot->credit) > INT32_MAX) /* it consumed what we have not sent */
        return false;
    if (slot->data_len != (payload ? r->len : 0))
        return false;
    return payload ? channel_data_in_range(&q->ch, slot->data_off, slot->data_len) : !slot->data_off;
}

static int32_t get_read_payload(struct cbd_queue *q, const struct request *r, const struct cbd_slot *slot)
{
    uint64_t off = q->ch.responses + slot->data_off;
    uint64_t rereads = 0;
    int err = 0;

    if (channel_data_crc(&q->ch))
        err = ring_get_payload_checked(&q->ch.map, off, r->buf, r->len, slot->data_crc, &rereads);
    else
        ring_get_payload(&q->ch.map, off, r->buf, r->len);
    stats_count(&q->stats.crc_retries, rereads);
    return err;
}

static uint32_t take(struct cbd_queue *q, const struct cbd_slot *slot, struct cbd_completion *out)
{
    struct request *r = find(q, slot);
    int32_t result = slot->result;

    if (!r || !answer_ok(q, r, slot)) {
        stats_count(&q->stats.bad_slots, 1);
        if (!r)
            return 0;
        result = -EIO;
    }
    if (!result && r->op == CBD_READ && r->state == SENT)
        result = get_read_payload(q, r, slot);
    return finish(q, r, result, out);
}

int cbd_queue_poll(struct cbd_queue *q, struct cbd_completion *out, uint32_t max)
{
    uint32_t n = report_ended(q, out, max);
    uint64_t rereads = 0;

    if (q->offline)
        return (int)n;
    /* What ended was reported before the first look, so that no completion meets it. At most one lap, so that a peer that never
     * stops talking cannot keep us here. */
    for (uint32_t looks = 0; n < max && looks < q->ch.conf.ring_depth; looks++) {
        struct cbd_slot slot;
        enum ring_got got = ring_consume(&q->completions, &slot, &rereads);

        if (got == RING_EMPTY || got == RING_TORN)
            break;
        if (got == RING_SLOT) {
            n += take(q, &slot, out + n);
        } else {
            stats_count(&q->stats.bad_slots, 1);
            q->lost += q->in_flight ? 1 : 0;
        }
    }
    if (q->lost && q->lost >= q->in_flight) { /* these are the ones */
        end_all(q, -EIO);
        n += report_ended(q, out + n, max - n);
    }
    if (rereads)
        stats_count(&q->stats.crc_retries, rereads);
    return (int)n;
}

int cbd_queue_wait(struct cbd_queue *q, struct cbd_completion *out, uint32_t max, uint64_t timeout_us)
{
    uint64_t timeout = timeout_us > UINT64_MAX / 1000 ? UINT64_MAX : timeout_us * 1000;
    uint64_t start = 0;
    int n;

    for (uint32_t looks = 0; !(n = cbd_queue_poll(q, out, max)) && q->in_flight; looks++) {
        uint64_t sleep = idle_next(&q->idle), now, waited;

        if (!sleep && looks % LOOKS_PER_CLOCK)
            continue;
        now = idle_now_ns();
        start = start ? start : now;
        waited = now - start;
        if (waited >= timeout)
            return 0;
        if (sleep)
            idle_sleep(sleep < timeout - waited ? sleep : timeout - waited);
    }
    idle_busy(&q->idle);
    return n;
}

void cbd_queue_abandon(struct cbd_queue *q, uint64_t user)
{
    for (uint32_t tag = 0; tag < q->ch.conf.ring_depth; tag++) {
        struct request *r = &q->requests[tag];

        if (r->state == FREE || r->user != user)
            continue;
        if (r->state == ENDED)
            release(q, r, r->result);
        else
            r->state = ABANDONED;
        r->buf = NULL;
    }
}

uint32_t cbd_channels_twice(const struct cbd_channel_conf *channels, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (channels[j].channel_off == channels[i].channel_off)
                return i;
        }
    }
    return count;
}

/* ---- other rings ------------------------------------------------------------------------------------------------------ */

/* The same epoch of the same channel would show us the completions that are there since the first time. */
static int find_rings(const struct cbd_queue *q, const struct cbd_channel_conf *conf, struct channel *out)
{
    const struct cbd_channel_conf *now = &q->ch.conf;

    if (!conf || conf->ring_depth != now->ring_depth || conf->slot_bytes != now->slot_bytes || conf->features != now->features ||
        (conf->channel_off == now->channel_off && conf->epoch == now->epoch))
        return -EINVAL;
    return channel_init(out, &q->mem, conf);
}

int cbd_queue_check_rebind(const struct cbd_queue *q, const struct cbd_channel_conf *channel)
{
    struct channel ignored;

    return find_rings(q, channel, &ignored);
}

/* The request with the backend that was sent next after tid. */
static struct request *sent_after(const struct cbd_queue *q, uint64_t tid)
{
    struct request *next = NULL;

    for (uint32_t tag = 0; tag < q->ch.conf.ring_depth; tag++) {
        struct request *r = &q->requests[tag];

        if (r->state == SENT && r->tid > tid && (!next || r->tid < next->tid))
            next = r;
    }
    return next;
}

/* The nth request gets the number n, which is never above the one it had: what was sent again is not met again. */
static void send_again(struct cbd_queue *q)
{
    struct request *r = sent_after(q, 0);

    while (r) {
        uint64_t tid = r->tid;

        produce(q, r);
        r = sent_after(q, tid);
    }
}

int cbd_queue_rebind(struct cbd_queue *q, const struct cbd_channel_conf *channel)
{
    struct channel fresh;
    int err = find_rings(q, channel, &fresh);

    if (err)
        return err;
    for (uint32_t tag = 0; tag < q->ch.conf.ring_depth; tag++) {
        if (q->requests[tag].state == ABANDONED)
            release(q, &q->requests[tag], -ECANCELED);
    }
    q->ch = fresh;
    use_rings(q);
    send_again(q);
    return 0;
}

void cbd_queue_hold(struct cbd_queue *q)
{
    q->offline = -EAGAIN;
}

void cbd_queue_set_offline(struct cbd_queue *q, int32_t error)
{
    q->offline = cbd_queue_error_ok(error) ? error : -EIO;
    end_all(q, q->offline);
}

/* ---- looking on ------------------------------------------------------------------------------------------------------- */

uint32_t cbd_queue_in_flight(const struct cbd_queue *q)
{
    return q->in_flight;
}

void cbd_queue_sum_stats(const struct cbd_queue *q, struct cbd_stats *sum)
{
    stats_sum(&q->stats, sum);
}

void cbd_queue_stats(const struct cbd_queue *q, struct cbd_stats *out)
{
    *out = (struct cbd_stats){0};
    stats_sum(&q->stats, out);
}
