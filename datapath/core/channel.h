/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Where the parts of a channel lie in the mapping. Made once per end; everything that is reached through it is inside the mapping.
 */
#ifndef CXL_CHANNEL_H
#define CXL_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "cbd_format.h"
#include "fence.h"
#include "mem.h"

struct channel {
    struct mem_map map;
    struct cbd_channel_conf conf;
    struct fence fence; /* of the host that uses this end */
    uint64_t submissions, completions; /* offsets in the mapping */
    uint64_t requests, responses;
    uint64_t data_bytes; /* of each data area */
};

/* -EINVAL: a number is outside what the format allows, a feature or a flag is unknown, or `reserved` is not 0. -ERANGE: the channel
 * does not fit into the mapping. */
int channel_init(struct channel *ch, const struct cxl_mem *mem, const struct cbd_channel_conf *conf);

/* Whether the payload carries a CRC on this transport. */
static inline bool channel_data_crc(const struct channel *ch)
{
    return ch->conf.features & CBD_FEATURE_DATA_CRC;
}

static inline bool channel_data_in_range(const struct channel *ch, uint32_t data_off, uint32_t data_len)
{
    return (uint64_t)data_off + data_len <= ch->data_bytes;
}

/* Our own choice of a data slot, in both areas. */
static inline uint32_t channel_data_off(const struct channel *ch, uint32_t tag)
{
    return tag * ch->conf.slot_bytes;
}

#endif
