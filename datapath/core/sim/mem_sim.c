/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * mem.h on the model: the same functions that mem.c has for the CPU.
 */
#include "mem.h"

#include "model.h"

static uint64_t place(const struct mem_map *map, uint64_t off)
{
    return model_offset_of(map->base) + off;
}

static uint32_t piece(uint64_t off, uint64_t len)
{
    uint64_t room = WORD - off % WORD;

    return (uint32_t)(len < room ? len : room);
}

uint64_t mem_load64(const struct mem_map *map, uint64_t off)
{
    uint64_t value;

    model_load(model_host_of(map->base), place(map, off), (uint8_t *)&value, sizeof(value));
    return value;
}

void mem_store64(const struct mem_map *map, uint64_t off, uint64_t value)
{
    model_store(model_host_of(map->base), place(map, off), (const uint8_t *)&value, sizeof(value));
}

void mem_copy_out(const struct mem_map *map, void *dst, uint64_t off, size_t len)
{
    uint8_t *to = dst;

    for (uint32_t n; len; off += n, to += n, len -= n) {
        n = piece(off, len);
        model_load(model_host_of(map->base), place(map, off), to, n);
    }
}

void mem_copy_in(const struct mem_map *map, uint64_t off, const void *src, size_t len)
{
    const uint8_t *from = src;

    for (uint32_t n; len; off += n, from += n, len -= n) {
        n = piece(off, len);
        model_store(model_host_of(map->base), place(map, off), from, n);
    }
}

/* The kernel fills bytes beside the memory; what it did there are stores of its host once the window is closed. */
uint8_t *mem_window(const struct mem_map *map, uint64_t off, size_t len)
{
    (void)len;
    return model_window(model_host_of(map->base), place(map, off));
}

void mem_window_close(const struct mem_map *map, uint64_t off, size_t len)
{
    mem_copy_in(map, off, model_window(model_host_of(map->base), place(map, off)), len);
}

void mem_clean(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len)
{
    if (map->clean != MEM_NONE && !sim_drops(site))
        model_flush(model_host_of(map->base), "clean", place(map, off), len, false);
}

void mem_invalidate(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len)
{
    if (map->invalidate != MEM_NONE && !sim_drops(site))
        model_flush(model_host_of(map->base), "invalidate", place(map, off), len, true);
}

void mem_store_fence(const struct mem_map *map, enum mem_site site)
{
    if (map->clean != MEM_NONE && !sim_drops(site))
        model_fence(model_host_of(map->base), "store fence");
}

void mem_load_fence(const struct mem_map *map, enum mem_site site)
{
    if (map->invalidate != MEM_NONE && !sim_drops(site))
        model_fence(model_host_of(map->base), "load fence");
}

void mem_full_fence(const struct mem_map *map, enum mem_site site)
{
    if (!sim_drops(site))
        model_fence(model_host_of(map->base), "full fence");
}
