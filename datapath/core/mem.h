/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The only door to shared memory. Every load, store, copy, cache-line flush and fence of the core is one of the functions below;
 * a build with -DCXL_SIM takes them from a model of incoherent caches instead of from the CPU.
 */
#ifndef CXL_MEM_H
#define CXL_MEM_H

#include <emmintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cxl_core.h"

#ifndef __x86_64__
#error "the flush and fence instructions of this CPU are not known here; only x86-64 is supported"
#endif

#define MEM_LINE 64U

/* Each flush and each fence of the core. A site is used at exactly one place, so that a test can drop one and see what breaks. */
enum mem_site {
    MEM_SITE_PAYLOAD_CLEAN,      /* writer: payload out of our cache */
    MEM_SITE_PAYLOAD_FENCE,      /* writer: ... before the slot that announces it */
    MEM_SITE_SLOT_CLEAN,         /* writer: slot out of our cache */
    MEM_SITE_SLOT_FENCE,         /* writer: ... before we go on to sleep or to reuse anything */
    MEM_SITE_SLOT_INVALIDATE,    /* reader: drop the stale slot */
    MEM_SITE_SLOT_LOAD_FENCE,    /* reader: ... before the load */
    MEM_SITE_PAYLOAD_INVALIDATE, /* reader: drop stale payload */
    MEM_SITE_PAYLOAD_LOAD_FENCE, /* reader: ... before the copy */
    MEM_SITE_META_INVALIDATE,    /* cxl_mem_read */
    MEM_SITE_META_LOAD_FENCE,
    MEM_SITE_META_CLEAN, /* cxl_mem_write */
    MEM_SITE_META_FENCE,
    MEM_SITE_FENCE_INVALIDATE, /* a handler's look at its fence line */
    MEM_SITE_FENCE_LOAD_FENCE,
    MEM_SITE_PAGE_CLEAN, /* kmem_blk: new content of a block is stable */
    MEM_SITE_PAGE_FENCE, /* ... before the index names its page */
    MEM_SITE_INDEX_CLEAN, /* kmem_blk: the index entry is stable */
    MEM_SITE_INDEX_FENCE, /* ... before the page that it named is used again, and before the answer */
    MEM_SITE_VOLUME_INVALIDATE, /* kmem_blk, opening: drop what we cached before another host had the pool */
    MEM_SITE_VOLUME_LOAD_FENCE, /* ... before the index and blocks are read */
    MEM_SITE_COUNT
};

const char *mem_site_name(enum mem_site site);

/* Instruction of this machine for each direction; MEM_NONE on coherent memory. clwb keeps the line, so it never invalidates. */
enum mem_flush { MEM_NONE, MEM_CLFLUSH, MEM_CLFLUSHOPT, MEM_CLWB };

struct mem_map {
    uint8_t *base;
    uint64_t len;
    enum mem_flush clean;
    enum mem_flush invalidate;
};

/* -EINVAL for a NULL or unaligned base, or an unknown kind of coherence. */
int mem_map_init(struct mem_map *map, const struct cxl_mem *mem);

static inline bool mem_in_range(const struct mem_map *map, uint64_t off, uint64_t len)
{
    return off <= map->len && len <= map->len - off;
}

/* Callers check the range once, when they compute where their rings and data lie. */
void mem_copy_out(const struct mem_map *map, void *dst, uint64_t off, size_t len);
void mem_copy_in(const struct mem_map *map, uint64_t off, const void *src, size_t len);
/* Lends a range that we write to the kernel, which fills it from a device, and to readers of what it filled; mem_window_close()
 * says that it is filled. The other host can write there, too: what is read from a window proves nothing. */
uint8_t *mem_window(const struct mem_map *map, uint64_t off, size_t len);
void mem_window_close(const struct mem_map *map, uint64_t off, size_t len);

/* On coherent memory, too: what we stored and cleaned is visible before any later load is done. */
void mem_full_fence(const struct mem_map *map, enum mem_site site);

#ifdef CXL_SIM
void mem_clean(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len);
void mem_invalidate(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len);
void mem_store_fence(const struct mem_map *map, enum mem_site site);
void mem_load_fence(const struct mem_map *map, enum mem_site site);
uint64_t mem_load64(const struct mem_map *map, uint64_t off);
void mem_store64(const struct mem_map *map, uint64_t off, uint64_t value);
#else
void mem_flush(const struct mem_map *map, enum mem_flush how, uint64_t off, uint64_t len);

/* Inline, because a look at a ring of coherent memory should cost a load and not four calls. */
static inline void mem_clean(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len)
{
    (void)site;
    if (map->clean != MEM_NONE)
        mem_flush(map, map->clean, off, len);
}

static inline void mem_invalidate(const struct mem_map *map, enum mem_site site, uint64_t off, uint64_t len)
{
    (void)site;
    if (map->invalidate != MEM_NONE)
        mem_flush(map, map->invalidate, off, len);
}

static inline void mem_store_fence(const struct mem_map *map, enum mem_site site)
{
    (void)site;
    if (map->clean != MEM_NONE)
        _mm_sfence();
}

/* A full fence: clflushopt is not ordered with later loads by anything less. */
static inline void mem_load_fence(const struct mem_map *map, enum mem_site site)
{
    (void)site;
    if (map->invalidate != MEM_NONE)
        _mm_mfence();
}

/* Acquire and release cost nothing on x86-64 and are all the ordering that coherent memory needs. */
static inline uint64_t mem_load64(const struct mem_map *map, uint64_t off)
{
    return __atomic_load_n((const uint64_t *)(const void *)(map->base + off), __ATOMIC_ACQUIRE);
}

static inline void mem_store64(const struct mem_map *map, uint64_t off, uint64_t value)
{
    __atomic_store_n((uint64_t *)(void *)(map->base + off), value, __ATOMIC_RELEASE);
}
#endif

#endif
