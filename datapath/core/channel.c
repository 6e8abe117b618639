/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "channel.h"

#include <errno.h>

static bool conf_ok(const struct cbd_channel_conf *c)
{
    return c->channel_off % CBD_PAGE == 0 && c->ring_depth >= CBD_MIN_DEPTH && c->ring_depth <= CBD_MAX_DEPTH &&
           (c->ring_depth & (c->ring_depth - 1)) == 0 && c->slot_bytes % CBD_PAGE == 0 && c->slot_bytes >= CBD_MIN_SLOT_BYTES &&
           c->slot_bytes <= CBD_MAX_SLOT_BYTES && !(c->features & ~(uint32_t)CBD_FEATURE_DATA_CRC) &&
           !(c->flags & ~(uint32_t)CBD_CHANNEL_READ_ONLY);
}

int channel_init(struct channel *ch, const struct cxl_mem *mem, const struct cbd_channel_conf *conf)
{
    int err = mem_map_init(&ch->map, mem);

    if (err)
        return err;
    if (!conf || !conf_ok(conf))
        return -EINVAL;

    uint64_t ring_bytes = ((uint64_t)conf->ring_depth * sizeof(struct cbd_slot) + CBD_PAGE - 1) / CBD_PAGE * CBD_PAGE;

    ch->conf = *conf;
    ch->data_bytes = (uint64_t)conf->ring_depth * conf->slot_bytes;
    if (!mem_in_range(&ch->map, conf->channel_off, CBD_CHANNEL_RINGS + 2 * (ring_bytes + ch->data_bytes)))
        return -ERANGE;
    err = fence_init(&ch->fence, mem, conf->fence_off, conf->host_epoch);
    if (err)
        return err;
    ch->submissions = conf->channel_off + CBD_CHANNEL_RINGS;
    ch->completions = ch->submissions + ring_bytes;
    ch->requests = ch->completions + ring_bytes;
    ch->responses = ch->requests + ch->data_bytes;
    return 0;
}
