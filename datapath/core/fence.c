/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "fence.h"

#include <errno.h>
#include <string.h>

#include "cbd_format.h"
#include "crc.h"

#define LOOKS 4U /* a line is torn for as long as its writer needs for two stores */
#define WORDS 2U /* of the line that mean something */

_Static_assert(offsetof(struct cbd_fence_line, reserved) == WORDS * sizeof(uint64_t), "what is loaded of a fence line");

int fence_init(struct fence *fence, const struct cxl_mem *mem, uint64_t off, uint32_t host_epoch)
{
    int err = mem_map_init(&fence->map, mem);

    if (err)
        return err;
    fence->off = off;
    fence->host_epoch = host_epoch;
    if (off % CBD_LINE)
        return -EINVAL;
    return !off || mem_in_range(&fence->map, off, CBD_LINE) ? 0 : -ERANGE;
}

static void load(const struct fence *fence, uint64_t words[WORDS])
{
    mem_invalidate(&fence->map, MEM_SITE_FENCE_INVALIDATE, fence->off, CBD_LINE);
    mem_load_fence(&fence->map, MEM_SITE_FENCE_LOAD_FENCE);
    for (unsigned i = 0; i < WORDS; i++)
        words[i] = mem_load64(&fence->map, fence->off + i * sizeof(words[i]));
}

bool fence_raised(const struct fence *fence)
{
    for (unsigned i = 0; fence->off && i < LOOKS; i++) {
        struct cbd_fence_line line = {0};
        uint64_t words[WORDS];

        load(fence, words);
        if (!words[0] && !words[1])
            return false; /* nobody ever wrote it: no reason to look again */
        memcpy(&line, words, sizeof(words));
        if (line.crc == cxl_crc32c(0, &line, offsetof(struct cbd_fence_line, crc)))
            return line.epoch >= fence->host_epoch;
    }
    return false;
}
