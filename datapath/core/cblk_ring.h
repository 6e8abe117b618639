/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Between the files of a chunk: cblk_chunk.c is its life, cblk_ring.c what travels through its areas.
 */
#ifndef CXL_CBLK_RING_H
#define CXL_CBLK_RING_H

#include "cblk_chunk.h"
#include "cblk_client.h"

struct cblk_areas {
    int bell;
    uint8_t *user;
    const uint8_t *master;
    uint64_t bytes;
    uint32_t depth;
};

/* Maps what came with an answer; the descriptors are used up in any case. */
int cblk_map(const struct cxlflash_answer *answer, const int fds[CBLK_DESCRIPTORS], struct cblk_areas *out);
void cblk_unmap_areas(const struct cblk_areas *areas);
/* The chunk has these areas from now on, and rings that nothing went through. */
void cblk_use(struct cblk_chunk *c, const struct cblk_areas *areas);
/* Lock held. The context has to be recovered before anything else is possible. */
bool cblk_in_error(const struct cblk_chunk *c);
/* Lock held. Asks the master for a new start of a context in error, and sends again what was in flight; waits for a master that is
 * started anew. When there is no new start, all of that has failed and so has the chunk. */
void cblk_recover(struct cblk_chunk *c);
/* Connects to the master that is there now. */
void cblk_reconnect(struct cblk_chunk *c);

#endif
