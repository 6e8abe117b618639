/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "handler.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "channel.h"
#include "crc.h"
#include "idle.h"
#include "protocol.h"
#include "ring.h"
#include "stats.h"
#include "thread.h"

#define BOUNCE_ALIGN 4096U /* what O_DIRECT wants on any device with blocks of up to 4 KiB */

struct handler {
    struct channel ch;
    struct ring submissions, completions;
    struct device dev;
    struct idle idle;
    struct stats stats;
    uint8_t *bounce; /* slot_bytes: payload is checked and used here, out of the peer's reach */
    atomic_bool stop;
    pthread_t thread;
};

/* ---- one request ------------------------------------------------------------------------------------------------------ */

static bool payload_fields_ok(const struct handler *h, const struct cbd_slot *s)
{
    if (s->op != CBD_WRITE)
        return !s->data_off && !s->data_len;
    return s->data_len == s->len && channel_data_in_range(&h->ch, s->data_off, s->data_len);
}

static uint8_t expected_flags(const struct handler *h, const struct cbd_slot *s)
{
    uint8_t flags = cbd_op_may_fua(s->op) ? s->flags & CBD_SLOT_FUA : 0;

    return s->op == CBD_WRITE && channel_data_crc(&h->ch) ? flags | CBD_SLOT_DATA_CRC : flags;
}

/* Everything that the peer can say wrong, before any of it is used. */
static int check(const struct handler *h, const struct cbd_slot *s)
{
    if (!cbd_op_known(s->op) || s->tag >= h->ch.conf.ring_depth || s->reserved || s->result)
        return -EINVAL;
    if (s->flags != expected_flags(h, s) || !payload_fields_ok(h, s))
        return -EINVAL;
    /* The completion of this request must have a free slot. */
    if (cbd_behind(h->completions.seq, s->credit) >= h->ch.conf.ring_depth)
        return -EINVAL;
    if (s->op == CBD_FLUSH)
        return s->offset || s->len ? -EINVAL : 0;
    if (cbd_op_has_payload(s->op) && s->len > h->ch.conf.slot_bytes)
        return -EINVAL;
    return device_check(&h->dev, s->offset, s->len);
}

static int do_write(struct handler *h, const struct cbd_slot *s)
{
    uint64_t off = h->ch.requests + s->data_off;
    uint64_t rereads = 0;
    int err = 0;

    if (channel_data_crc(&h->ch))
        err = ring_get_payload_checked(&h->ch.map, off, h->bounce, s->len, s->data_crc, &rereads);
    else
        ring_get_payload(&h->ch.map, off, h->bounce, s->len);
    stats_count(&h->stats.crc_retries, rereads);
    return err ? err : device_write(&h->dev, h->bounce, s->len, s->offset);
}

/* Fills the payload fields of the completion. */
static int do_read(struct handler *h, const struct cbd_slot *s, struct cbd_slot *done)
{
    int err = device_read(&h->dev, h->bounce, s->len, s->offset);

    if (err)
        return err;
    done->data_off = channel_data_off(&h->ch, s->tag);
    done->data_len = s->len;
    if (channel_data_crc(&h->ch)) {
        done->flags = CBD_SLOT_DATA_CRC;
        done->data_crc = cxl_crc32c(0, h->bounce, s->len);
    }
    ring_put_payload(&h->ch.map, h->ch.responses + done->data_off, h->bounce, s->len);
    return 0;
}

static int perform(struct handler *h, const struct cbd_slot *s, struct cbd_slot *done)
{
    int err;

    if (s->op == CBD_READ)
        return do_read(h, s, done);
    if (s->op == CBD_FLUSH)
        return device_flush(&h->dev);
    if (h->dev.read_only)
        return -EROFS;
    if (s->op == CBD_WRITE)
        err = do_write(h, s);
    else if (s->op == CBD_DISCARD)
        err = device_discard(&h->dev, s->offset, s->len);
    else
        err = device_write_zeroes(&h->dev, s->offset, s->len, h->bounce, h->ch.conf.slot_bytes);
    return !err && (s->flags & CBD_SLOT_FUA) ? device_flush(&h->dev) : err;
}

static void answer(struct handler *h, struct cbd_slot *done)
{
    done->credit = (uint32_t)h->submissions.seq;
    stats_request(&h->stats, done->op, done->len, done->result);
    ring_produce(&h->completions, done);
}

static void serve(struct handler *h, const struct cbd_slot *s)
{
    struct cbd_slot done = {.op = s->op, .tag = s->tag, .tid = s->tid, .offset = s->offset, .len = s->len};

    done.result = check(h, s);
    if (done.result)
        stats_count(&h->stats.bad_slots, 1);
    else
        done.result = perform(h, s, &done);
    answer(h, &done);
}

static void refuse_unreadable(struct handler *h)
{
    struct cbd_slot done = {.tag = CBD_NO_TAG, .tid = h->submissions.seq, .result = -EIO};

    stats_count(&h->stats.bad_slots, 1);
    answer(h, &done);
}

/* Whether there was something to do. */
static bool serve_next(struct handler *h)
{
    uint64_t rereads = 0;
    struct cbd_slot slot;
    enum ring_got got = ring_consume(&h->submissions, &slot, &rereads);

    if (rereads)
        stats_count(&h->stats.crc_retries, rereads);
    if (got == RING_SLOT)
        serve(h, &slot);
    else if (got == RING_BAD)
        refuse_unreadable(h);
    return got == RING_SLOT || got == RING_BAD;
}

/* ---- the thread ------------------------------------------------------------------------------------------------------- */

static void *run(void *arg)
{
    struct handler *h = arg;

    while (!atomic_load_explicit(&h->stop, memory_order_relaxed)) {
        if (serve_next(h))
            idle_busy(&h->idle);
        else
            idle_wait(&h->idle);
    }
    return NULL;
}

int handler_start(const struct cxl_mem *mem, const struct cbd_channel_conf *conf, const struct device *dev,
                  const struct cbd_idle_conf *idle, struct handler **out)
{
    struct handler *h = calloc(1, sizeof(*h));
    int err = h ? channel_init(&h->ch, mem, conf) : -ENOMEM;

    if (!err)
        err = idle_init(&h->idle, idle);
    if (!err) {
        h->bounce = aligned_alloc(BOUNCE_ALIGN, conf->slot_bytes);
        err = h->bounce ? 0 : -ENOMEM;
    }
    if (!err) {
        h->dev = *dev;
        ring_init(&h->submissions, &h->ch.map, h->ch.submissions, conf->ring_depth, conf->epoch);
        ring_init(&h->completions, &h->ch.map, h->ch.completions, conf->ring_depth, conf->epoch);
        err = thread_start(&h->thread, "cbd-handler", run, h);
    }
    if (err) {
        handler_free(h);
        return err;
    }
    *out = h;
    return 0;
}

void handler_stop(struct handler *h)
{
    atomic_store_explicit(&h->stop, true, memory_order_relaxed);
    pthread_join(h->thread, NULL);
}

void handler_free(struct handler *h)
{
    if (!h)
        return;
    free(h->bounce);
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
