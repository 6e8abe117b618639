/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Volumes as the devices of backends: at once, or through channels that another process serves.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "backend.h"
#include "idle.h"
#include "kmem_blk.h"
#include "lun_engine.h"
#include "pool.h"

#define ZERO_BYTES (1U << 30) /* of one request */

static int with_engine(enum cbd_engine engine, const struct cxl_mem *mem, const struct cbd_backend_conf *conf,
                       device_performer *perform, void *ctx, struct cbd_backend **out)
{
    struct cbd_backend_conf copy;

    if (!conf)
        return -EINVAL;
    copy = *conf;
    copy.engine = engine;
    return backend_new_on(mem, &copy, perform, ctx, out);
}

/* ---- a volume of this process --------------------------------------------------------------------------------------------- */

static int32_t volume_perform(void *ctx, const struct step *step)
{
    struct kmb_volume *v = ctx;
    int err = 0;

    switch (step->kind) {
    case STEP_READ:
        err = kmb_volume_read(v, step->offset, step->len, step->buf);
        return err ? err : (int32_t)step->len;
    case STEP_WRITE:
        err = kmb_volume_write(v, step->offset, step->len, step->buf);
        return err ? err : (int32_t)step->len;
    case STEP_SYNC:
        break; /* a write has ended when it is stable */
    case STEP_ALLOCATE:
    case STEP_BLKDISCARD:
        err = kmb_volume_discard(v, step->offset, step->len);
        break;
    }
    return err;
}

int kmb_backend_new(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, struct kmb_volume *volume,
                    struct cbd_backend **out)
{
    return with_engine(CBD_ENGINE_INLINE, mem, conf, volume_perform, volume, out);
}

/* ---- a volume of another process -------------------------------------------------------------------------------------------- */

struct kmb_relay {
    uint32_t count;
    struct pool *queues;
};

static int sleep_on(uint64_t ns)
{
    idle_sleep(ns);
    return 0;
}

static uint32_t op_of(const struct step *step)
{
    switch (step->kind) {
    case STEP_READ:
        return CBD_READ;
    case STEP_WRITE:
        return CBD_WRITE;
    case STEP_SYNC:
        return CBD_FLUSH;
    case STEP_ALLOCATE:
        return step->flags & FALLOC_FL_ZERO_RANGE ? CBD_WRITE_ZEROES : CBD_DISCARD;
    case STEP_BLKDISCARD:
        break;
    }
    return CBD_DISCARD;
}

static int32_t relay_perform(void *ctx, const struct step *step)
{
    const struct kmb_relay *relay = ctx;
    uint32_t op = op_of(step);
    int err = pool_run(relay->queues, op, 0, step->offset, step->len, step->buf);

    if (err)
        return err;
    return op == CBD_READ || op == CBD_WRITE ? (int32_t)step->len : 0;
}

int kmb_relay_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, uint32_t count, struct kmb_relay **out)
{
    struct kmb_relay *relay = count ? calloc(1, sizeof(*relay)) : NULL;
    int err = relay ? pool_new(mem, channels, count, sleep_on, &relay->queues) : count ? -ENOMEM : -EINVAL;

    if (err) {
        free(relay);
        return err;
    }
    relay->count = count;
    *out = relay;
    return 0;
}

int kmb_relay_backend_new(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, struct kmb_relay *relay,
                          struct cbd_backend **out)
{
    return with_engine(CBD_ENGINE_SYNC, mem, conf, relay_perform, relay, out);
}

int kmb_relay_lun_new(const struct cxl_lun_conf *conf, struct kmb_relay *relay, struct cxl_lun **out)
{
    struct cxl_lun_conf copy;

    if (!conf || !relay)
        return -EINVAL;
    copy = *conf;
    copy.engine = CBD_ENGINE_SYNC;
    return lun_new_on(&copy, relay_perform, relay, out);
}

int kmb_relay_zero(struct kmb_relay *relay, uint64_t offset, uint64_t len)
{
    int err = 0;

    while (!err && len) {
        uint32_t piece = len < ZERO_BYTES ? (uint32_t)len : ZERO_BYTES;

        err = pool_run(relay->queues, CBD_WRITE_ZEROES, 0, offset, piece, NULL);
        offset += piece;
        len -= piece;
    }
    return err;
}

int kmb_relay_rebind(struct kmb_relay *relay, const struct cbd_channel_conf *channels, uint32_t count)
{
    return count == relay->count ? pool_rebind(relay->queues, channels, count) : -EINVAL;
}

void kmb_relay_free(struct kmb_relay *relay)
{
    if (!relay)
        return;
    pool_free(relay->queues);
    free(relay);
}
