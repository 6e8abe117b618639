/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "mem.h"

#include <errno.h>
#include <immintrin.h>

static const char *const site_names[MEM_SITE_COUNT] = {
    [MEM_SITE_PAYLOAD_CLEAN] = "payload-clean",
    [MEM_SITE_PAYLOAD_FENCE] = "payload-fence",
    [MEM_SITE_SLOT_CLEAN] = "slot-clean",
    [MEM_SITE_SLOT_FENCE] = "slot-fence",
    [MEM_SITE_SLOT_INVALIDATE] = "slot-invalidate",
    [MEM_SITE_SLOT_LOAD_FENCE] = "slot-load-fence",
    [MEM_SITE_PAYLOAD_INVALIDATE] = "payload-invalidate",
    [MEM_SITE_PAYLOAD_LOAD_FENCE] = "payload-load-fence",
    [MEM_SITE_META_INVALIDATE] = "meta-invalidate",
    [MEM_SITE_META_LOAD_FENCE] = "meta-load-fence",
    [MEM_SITE_META_CLEAN] = "meta-clean",
    [MEM_SITE_META_FENCE] = "meta-fence",
    [MEM_SITE_FENCE_INVALIDATE] = "fence-invalidate",
    [MEM_SITE_FENCE_LOAD_FENCE] = "fence-load-fence",
    [MEM_SITE_PAGE_CLEAN] = "page-clean",
    [MEM_SITE_PAGE_FENCE] = "page-fence",
    [MEM_SITE_INDEX_CLEAN] = "index-clean",
    [MEM_SITE_INDEX_FENCE] = "index-fence",
    [MEM_SITE_VOLUME_INVALIDATE] = "volume-invalidate",
    [MEM_SITE_VOLUME_LOAD_FENCE] = "volume-load-fence",
};

const char *mem_site_name(enum mem_site site)
{
    return (unsigned)site < MEM_SITE_COUNT ? site_names[site] : NULL;
}

int mem_map_init(struct mem_map *map, const struct cxl_mem *mem)
{
    if (!mem || !mem->base || (uintptr_t)mem->base % MEM_LINE || mem->coherence > CXL_COHERENCE_SOFTWARE)
        return -EINVAL;
    *map = (struct mem_map){.base = mem->base, .len = mem->len, .clean = MEM_NONE, .invalidate = MEM_NONE};
    if (mem->coherence == CXL_COHERENCE_SOFTWARE) {
        map->invalidate = __builtin_cpu_supports("clflushopt") ? MEM_CLFLUSHOPT : MEM_CLFLUSH;
        map->clean = __builtin_cpu_supports("clwb") ? MEM_CLWB : map->invalidate;
    }
    return 0;
}

#ifndef CXL_SIM

/* Own loops, because glibc chooses `rep movsb` at payload sizes, which an emulated CPU runs byte by byte. CMakeLists.txt keeps
 * the compiler from turning them back into memcpy. */
static void copy(uint8_t *dst, const uint8_t *src, size_t len)
{
    for (; len >= 64; len -= 64, dst += 64, src += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)(const void *)src);
        __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(src + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(src + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(const void *)(src + 48));
        _mm_storeu_si128((__m128i *)(void *)dst, a);
        _mm_storeu_si128((__m128i *)(void *)(dst + 16), b);
        _mm_storeu_si128((__m128i *)(void *)(dst + 32), c);
        _mm_storeu_si128((__m128i *)(void *)(dst + 48), d);
    }
    for (; len >= 8; len -= 8, dst += 8, src += 8)
        __builtin_memcpy(dst, src, 8); /* one 64-bit move */
    for (; len; len--)
        *dst++ = *src++;
}

void mem_copy_out(const struct mem_map *map, void *dst, uint64_t off, size_t len)
{
    copy(dst, map->base + off, len);
}

void mem_copy_in(const struct mem_map *map, uint64_t off, const void *src, size_t len)
{
    copy(map->base + off, src, len);
}

uint8_t *mem_window(const struct mem_map *map, uint64_t off, size_t len)
{
    (void)len;
    return map->base + off;
}

void mem_window_close(const struct mem_map *map, uint64_t off, size_t len)
{
    (void)map;
    (void)off;
    (void)len;
}

__attribute__((target("clwb"))) static void lines_clwb(uint8_t *line, const uint8_t *end)
{
    for (; line < end; line += MEM_LINE)
        _mm_clwb(line);
}

__attribute__((target("clflushopt"))) static void lines_clflushopt(uint8_t *line, const uint8_t *end)
{
    for (; line < end; line += MEM_LINE)
        _mm_clflushopt(line);
}

static void lines_clflush(const uint8_t *line, const uint8_t *end)
{
    for (; line < end; line += MEM_LINE)
        _mm_clflush(line);
}

void mem_flush(const struct mem_map *map, enum mem_flush how, uint64_t off, uint64_t len)
{
    uint8_t *line = map->base + off / MEM_LINE * MEM_LINE;
    const uint8_t *end = map->base + off + len;

    switch (how) {
    case MEM_CLWB:
        lines_clwb(line, end);
        break;
    case MEM_CLFLUSHOPT:
        lines_clflushopt(line, end);
        break;
    case MEM_CLFLUSH:
        lines_clflush(line, end);
        break;
    case MEM_NONE:
        break;
    }
}

void mem_full_fence(const struct mem_map *map, enum mem_site site)
{
    (void)map;
    (void)site;
    _mm_mfence();
}

#endif /* CXL_SIM */

int cxl_mem_read(const struct cxl_mem *mem, uint64_t off, void *dst, uint64_t len)
{
    struct mem_map map;
    int err = mem_map_init(&map, mem);

    if (err)
        return err;
    if (!mem_in_range(&map, off, len))
        return -ERANGE;
    mem_invalidate(&map, MEM_SITE_META_INVALIDATE, off, len);
    mem_load_fence(&map, MEM_SITE_META_LOAD_FENCE);
    mem_copy_out(&map, dst, off, len);
    return 0;
}

int cxl_mem_write(const struct cxl_mem *mem, uint64_t off, const void *src, uint64_t len)
{
    struct mem_map map;
    int err = mem_map_init(&map, mem);

    if (err)
        return err;
    if (!mem_in_range(&map, off, len))
        return -ERANGE;
    mem_copy_in(&map, off, src, len);
    mem_clean(&map, MEM_SITE_META_CLEAN, off, len);
    mem_full_fence(&map, MEM_SITE_META_FENCE);
    return 0;
}

uint32_t cxl_core_abi(void)
{
    return CXL_CORE_ABI;
}
