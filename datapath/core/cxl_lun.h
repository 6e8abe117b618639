/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The engine of one LUN: serves the commands of the contexts of processes on this host (docs/cxlflash-format.md). One thread per LUN.
 *
 * Who may have which context, handle or chunk is decided in Python and arrives here as numbers; each command is checked here.
 * Functions return 0 or a negated errno. Those that change something first let the commands in flight end.
 */
#ifndef CXL_LUN_H
#define CXL_LUN_H

#include <stdint.h>

#include "cxl_core.h"

struct cxl_lun;

struct cxl_lun_conf {
    int32_t fd; /* stays the caller's */
    uint32_t is_block;
    uint32_t read_only;
    uint32_t logical_block_size; /* bytes */
    uint64_t blocks;             /* of 4096 bytes */
    uint64_t chunk_blocks;       /* at least 32 */
    uint32_t engine;             /* enum cbd_engine */
    struct cbd_idle_conf idle;
};

struct cxl_lun_context_conf {
    int32_t user_fd;   /* area that the application writes; its size is sealed */
    int32_t master_fd; /* area that it reads */
    int32_t bell_fd;   /* our end of a stream socket */
    uint32_t depth;    /* a power of two, 2 to 256 */
    uint32_t read_only;
};

struct cxl_lun_stats { /* all monotonic counters */
    uint64_t commands, blocks_read, blocks_written, errors;
    uint64_t refused; /* commands out of bounds, of unknown kinds, on handles that are not open */
    uint64_t sleeps;  /* how often the thread waited for a bell */
};

CXL_API int cxl_lun_new(const struct cxl_lun_conf *conf, struct cxl_lun **out);
/* -EEXIST: the slot is taken; -EINVAL: areas or depth do not fit together. slot: 0 to 511. */
CXL_API int cxl_lun_add(struct cxl_lun *lun, uint32_t slot, const struct cxl_lun_context_conf *conf);
CXL_API int cxl_lun_remove(struct cxl_lun *lun, uint32_t slot);
/* Opens a handle, or changes it. chunks: NULL for the LUN itself; otherwise the chunks of a virtual LUN, in its order. */
CXL_API int cxl_lun_set(struct cxl_lun *lun, uint32_t slot, uint32_t handle, uint64_t blocks, const uint32_t *chunks, uint32_t count);
CXL_API int cxl_lun_clear(struct cxl_lun *lun, uint32_t slot, uint32_t handle);
/* The medium has another size now. Handles are as they were. */
CXL_API int cxl_lun_set_blocks(struct cxl_lun *lun, uint64_t blocks);
/* Every context reads all ones in its status word from now on. */
CXL_API void cxl_lun_fail(struct cxl_lun *lun);
CXL_API void cxl_lun_stats(struct cxl_lun *lun, struct cxl_lun_stats *out);
CXL_API void cxl_lun_free(struct cxl_lun *lun);

#endif
