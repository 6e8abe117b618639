/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "recorded_mem.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

enum state { STABLE, DIRTY, CLEANED }; /* CLEANED: on its way, and there after a fence */

static uint8_t *recorded, *stable;
static enum state *lines;
static uint64_t bytes;
static enum mem_site drop;
static void (*step)(void);

void recording_start(uint8_t *base, uint64_t len, enum mem_site dropped, void (*at_each_step)(void))
{
    recorded = base;
    bytes = len;
    drop = dropped;
    step = at_each_step;
    stable = malloc(len);
    lines = calloc(len / MEM_LINE, sizeof(*lines));
    CHECK(stable && lines);
    memcpy(stable, base, len);
}

void recording_stop(void)
{
    free(stable);
    free(lines);
    recorded = NULL;
}

uint64_t unstable_lines(void)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < bytes / MEM_LINE; i++)
        n += lines[i] != STABLE;
    return n;
}

void after_crash(uint8_t *out, bool (*keep)(uint64_t n, const void *ctx), const void *ctx)
{
    uint64_t n = 0;

    memcpy(out, stable, bytes);
    for (uint64_t i = 0; i < bytes / MEM_LINE; i++) {
        if (lines[i] != STABLE && keep(n++, ctx))
            memcpy(out + i * MEM_LINE, recorded + i * MEM_LINE, MEM_LINE);
    }
}

static bool is_recorded(const struct mem_map *map)
{
    return recorded && map->base >= recorded && map->base < recorded + bytes;
}

static void mark(const struct mem_map *map, uint64_t off, uint64_t len, enum state state)
{
    if (!is_recorded(map))
        return;
    off += (uint64_t)(map->base - recorded);
    for (uint64_t i = off / MEM_LINE; i * MEM_LINE < off + len; i++) {
        if (state == DIRTY || lines[i] == DIRTY)
            lines[i] = state;
    }
    step();
}

/* ---- mem.h ---------------------------------------------------------------------------------------------------------------- */

int mem_map_init(struct mem_map *map, const struct cxl_mem *mem)
{
    *map = (struct mem_map){.base = mem->base, .len = mem->len};
    return 0;
}

void mem_copy_out(const struct mem_map *map, void *dst, uint64_t off, size_t len)
{
    memcpy(dst, map->base + off, len);
}

void mem_copy_in(const struct mem_map *map, uint64_t off, const void *src, size_t len)
{
    memcpy(map->base + off, src, len);
    mark(map, off, len, DIRTY);
}

uint64_t mem_load64(const struct mem_map *map, uint64_t off)
{
    return *(const uint64_t *)(const void *)(map->base + off);
}

void mem_store64(const struct mem_map *map, uint64_t off, uint64_t value)
{
    *(uint64_t *)(void *)(map->base + off) = value;
    mark(map, off, sizeof(value), DIRTY);
}

void mem_clean(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len)
{
    if (site != drop)
        mark(map, off, len, CLEANED);
}

void mem_store_fence(const struct mem_map *map, enum mem_site site)
{
    if (site == drop || !is_recorded(map))
        return;
    for (uint64_t i = 0; i < bytes / MEM_LINE; i++) {
        if (lines[i] == CLEANED) {
            memcpy(stable + i * MEM_LINE, recorded + i * MEM_LINE, MEM_LINE);
            lines[i] = STABLE;
        }
    }
    step();
}

/* There is no other host here whose bytes could be newer than ours. */
void mem_invalidate(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len)
{
    (void)map, (void)site, (void)off, (void)len;
}

void mem_load_fence(const struct mem_map *map, enum mem_site site)
{
    (void)map, (void)site;
}
