/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * kmem_blk: one pool of 4 KiB pages that carries volumes of blocks and lends the rest as memory. docs/kmem-blk-format.md has the
 * bytes; formats, limits and leases are Python, which gives plain numbers that it has validated. What comes out of pool memory, the
 * index above all, is validated here.
 *
 * Unless a line says otherwise a function returns 0 or a negated errno, and may be called from any thread.
 */
#ifndef KMEM_BLK_H
#define KMEM_BLK_H

#include "cxl_core.h"
#include "cxl_lun.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KMB_PAGE 4096U
#define KMB_INDEX_ENTRIES 512U /* of an index page: u64 page numbers, 0 is a hole */
#define KMB_MAX_RANGES 64U
#define KMB_MAX_BLOCKS 256U /* of one write */

/* Who uses a page. Only blocks may use the reserve. */
enum kmb_user { KMB_BLOCKS = 0, KMB_SWAP = 1, KMB_LEASES = 2, KMB_USERS = 3 };

struct kmb_pool_conf {
    uint64_t spare;   /* pages that are never given away: blocks are rewritten through them. At least 1 */
    uint64_t reserve; /* pages that only blocks may take */
    uint32_t recall_ms; /* how long a write of blocks waits for pages to come back before -ENOSPC */
    int32_t event_fd;   /* an eventfd that is written when a write begins to wait; -1: none */
};

/* A memory of the pool: page numbers first .. first + pages, of which the first `fixed` hold no data. The mapping outlives it. */
struct kmb_range_conf {
    uint64_t first, pages, fixed;
    uint64_t is_volatile; /* 1: what is in it may be gone after a power cut: for swap only */
};

struct kmb_counts { /* pages */
    uint64_t pages, fixed, free; /* free: nobody uses them; the spare ones count */
    uint64_t available;          /* for blocks: free without volatile and spare ones and without the room that a leaving range needs */
    uint64_t reserve;
    uint64_t used[KMB_USERS];
    uint64_t wanted; /* that writes wait for at this moment */
};

struct kmb_pool;

CXL_API int kmb_pool_new(const struct kmb_pool_conf *conf, struct kmb_pool **out);
CXL_API void kmb_pool_set_reserve(struct kmb_pool *pool, uint64_t reserve);
CXL_API void kmb_pool_counts(struct kmb_pool *pool, struct kmb_counts *out);
/* Every volume is freed before. */
CXL_API void kmb_pool_free(struct kmb_pool *pool);

/* Its pages are free from now on. -EEXIST when it overlaps another one, -ENOSPC when there are KMB_MAX_RANGES. */
CXL_API int kmb_range_add(struct kmb_pool *pool, const struct cxl_mem *mem, const struct kmb_range_conf *conf);
/* Nothing is allocated in the range any more. -ENOENT; -ENOSPC when what is used there has no room elsewhere. */
CXL_API int kmb_range_leave(struct kmb_pool *pool, uint64_t first);
/* Takes that back. */
CXL_API int kmb_range_stay(struct kmb_pool *pool, uint64_t first);
/* Pages of it that are used now; 0 when there is no such range. */
CXL_API uint64_t kmb_range_used(struct kmb_pool *pool, uint64_t first);
/* Forgets a range that leaves; -EBUSY while a page of it is used. */
CXL_API int kmb_range_remove(struct kmb_pool *pool, uint64_t first);

/* Takes count pages for leases, in runs of `run` pages (1, or a power of two that divides count): each run is contiguous and aligned
 * to its size in its range. -ENOSPC: all or none. */
CXL_API int kmb_take(struct kmb_pool *pool, uint64_t count, uint64_t run, uint64_t *pages);
/* Claims pages that are known to be in use by leases of an earlier life; -EUCLEAN when one is taken or no page. */
CXL_API int kmb_claim(struct kmb_pool *pool, const uint64_t *pages, uint64_t count);
CXL_API void kmb_give(struct kmb_pool *pool, const uint64_t *pages, uint64_t count);

/* ---- volumes ------------------------------------------------------------------------------------------------------- */

struct kmb_volume_conf {
    struct cxl_mem index; /* memory that holds the index: of the pool (persistent), or of the caller (volatile) */
    uint64_t index_off;
    uint64_t blocks;
    uint32_t user;    /* KMB_BLOCKS or KMB_SWAP */
    uint32_t durable; /* 1: a crash at any point leaves each block old or new; 0: contents die with the machine */
};

struct kmb_volume;

/* Claims every page that the index names. -EUCLEAN: entry *bad names no page of the pool, or one that is used already; nothing is
 * claimed then. */
CXL_API int kmb_volume_new(struct kmb_pool *pool, const struct kmb_volume_conf *conf, uint64_t *bad, struct kmb_volume **out);
/* offset, len: bytes, whole blocks inside the volume (-EINVAL). */
CXL_API int kmb_volume_read(struct kmb_volume *v, uint64_t offset, uint32_t len, void *buf);
/* At most KMB_MAX_BLOCKS. -ENOSPC before any byte has changed. On return a durable volume is stable. */
CXL_API int kmb_volume_write(struct kmb_volume *v, uint64_t offset, uint32_t len, const void *buf);
/* Frees the pages of the blocks, which read as zeroes then. */
CXL_API int kmb_volume_discard(struct kmb_volume *v, uint64_t offset, uint32_t len);
/* Moves every block whose page lies in the leaving range `first`. */
CXL_API int kmb_volume_evacuate(struct kmb_volume *v, uint64_t first);
CXL_API uint64_t kmb_volume_mapped(const struct kmb_volume *v);
/* Leaves index and pages as they are. No call may be under way. */
CXL_API void kmb_volume_free(struct kmb_volume *v);

/* ---- ways to a volume ------------------------------------------------------------------------------------------------ */

/* cbd_backend_new(), over a volume instead of a descriptor: conf->fd, is_block and engine are not looked at. */
CXL_API int kmb_backend_new(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, struct kmb_volume *volume,
                            struct cbd_backend **out);

/* A backend of another transport whose device is at the far end of channels (those of kmb_backend_new() in another process). */
struct kmb_relay;

CXL_API int kmb_relay_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, uint32_t count, struct kmb_relay **out);
/* cbd_queue_rebind() of every queue: what is under way is sent again there. */
CXL_API int kmb_relay_rebind(struct kmb_relay *relay, const struct cbd_channel_conf *channels, uint32_t count);
CXL_API int kmb_relay_backend_new(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, struct kmb_relay *relay,
                                  struct cbd_backend **out);
/* A LUN on it: conf->fd, is_block and engine are not looked at. */
CXL_API int kmb_relay_lun_new(const struct cxl_lun_conf *conf, struct kmb_relay *relay, struct cxl_lun **out);
/* Waits for the end. offset and len are multiples of the volume's block. */
CXL_API int kmb_relay_zero(struct kmb_relay *relay, uint64_t offset, uint64_t len);
/* After the backend or LUN on it is freed. */
CXL_API void kmb_relay_free(struct kmb_relay *relay);

#ifdef __cplusplus
}
#endif
#endif
