/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Arbitrary numbers of a channel, and an arbitrary fence line: what is accepted can be used to its last byte.
 */
#include <errno.h>

#include "../tests/fixture.h"
#include "fuzz.h"

static struct fixture f;

static void touch(const struct channel *ch, uint64_t off, uint64_t len)
{
    uint8_t byte;

    CHECK(len && mem_in_range(&ch->map, off, len));
    mem_copy_out(&ch->map, &byte, off, 1);
    mem_copy_in(&ch->map, off + len - 1, &byte, 1);
}

/* The areas follow each other, and the last one ends inside. */
static void check_channel(const struct channel *ch)
{
    uint64_t ring = (uint64_t)ch->conf.ring_depth * sizeof(struct cbd_slot);

    CHECK(ch->conf.channel_off + CBD_CHANNEL_RINGS <= ch->submissions && ch->submissions + ring <= ch->completions);
    CHECK(ch->completions + ring <= ch->requests && ch->requests + ch->data_bytes <= ch->responses);
    touch(ch, ch->submissions, ring);
    touch(ch, ch->completions, ring);
    touch(ch, ch->requests, ch->data_bytes);
    touch(ch, ch->responses, ch->data_bytes);
    CHECK(channel_data_in_range(ch, channel_data_off(ch, ch->conf.ring_depth - 1), ch->conf.slot_bytes));
    fence_raised(&ch->fence);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct cbd_channel_conf conf;
    struct channel ch;
    struct cxl_mem mem;
    uint8_t how = take8(&in);
    int err;

    if (!f.mem.base)
        fixture_memory(&f, CXL_COHERENCE_HARDWARE, 0);
    mem = f.mem;
    mem.coherence = how % 4;
    mem.len -= take8(&in) % 16 * CBD_LINE;
    take(&in, &conf, sizeof(conf));
    if (how & 0x40) { /* most numbers are refused at once: these are not */
        conf.ring_depth = 1U << conf.ring_depth % 12;
        conf.slot_bytes = (1U + conf.slot_bytes % 3) * CBD_PAGE;
        conf.channel_off = conf.channel_off % 64 * CBD_PAGE;
        conf.fence_off = conf.fence_off % 8192 * CBD_LINE;
        conf.features &= 1;
        conf.flags &= 1;
    }
    if (how & 0x80)
        take(&in, f.mem.base + FENCE_OFF, CBD_LINE);
    err = channel_init(&ch, &mem, &conf);
    CHECK(err == 0 || err == -EINVAL || err == -ERANGE);
    if (!err)
        check_channel(&ch);
    return 0;
}
