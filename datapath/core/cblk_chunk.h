/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One open chunk of libcblk: its context, its commands in flight, and how it waits and recovers. Functions whose comment says so are
 * called with the lock held. Results are 0 or a negated errno.
 */
#ifndef CXL_CBLK_CHUNK_H
#define CXL_CBLK_CHUNK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "cblk.h"
#include "cxlflash_format.h"
#include "idle.h"

enum op_state { OP_FREE, OP_PENDING, OP_DONE };

struct cblk_op {
    enum op_state state;
    enum cxlflash_op op;
    void *buf; /* target of a read */
    uint64_t lba;
    uint32_t blocks;
    bool internal;  /* of a synchronous call: nobody may fetch it by tag */
    bool has_name;  /* user_tag counts */
    int user_tag;
    uint64_t order; /* of submission while pending, of the end once done */
    int32_t result;
    cblk_arw_status_t *status;
};

struct cblk_chunk {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool watching;        /* a thread watches the ring, without the lock */
    const uint8_t *owner; /* a page with a 1 in it, which a fork wipes */
    char path[108], lun[64];
    int service, bell;
    uint8_t *user;
    const uint8_t *master;
    uint64_t area_bytes;
    uint32_t depth, chunk_blocks;
    uint64_t context;
    uint32_t handle;
    bool is_virtual, read_only;
    bool hung;  /* the master closed the bell */
    int failed; /* negated errno: the chunk is only good for closing */
    uint64_t blocks;
    uint64_t sent, got, orders;
    struct idle idle; /* of the thread that watches */
    struct cblk_op ops[CXLFLASH_DEPTH_MAX];
    struct cblk_stats stats;
};

int cblk_chunk_open(const char *lun, uint32_t depth, bool read_only, bool is_virtual, struct cblk_chunk **out);
/* Ends the context; the chunk is gone whatever the master says. */
int cblk_chunk_close(struct cblk_chunk *c, bool scrub);
/* Whether this process made the chunk. */
bool cblk_chunk_is_ours(const struct cblk_chunk *c);
int cblk_chunk_clone(struct cblk_chunk *c, bool read_only);

/* Lock held. One service about the chunk; recovers first, and again when the master says that it has to be. */
int cblk_chunk_ask(struct cblk_chunk *c, struct cxlflash_request *request, struct cxlflash_answer *answer);
/* Lock held. Sends a command and gives its tag, -EAGAIN when all are taken. buf of a write has left it on return. */
int cblk_chunk_submit(struct cblk_chunk *c, const struct cblk_op *op, const void *data);
/* Lock held. Takes what has ended, and recovers if that is due. */
void cblk_chunk_look(struct cblk_chunk *c);
/* Lock held, and let go of meanwhile. Returns when something may have ended, at the latest at the deadline (idle_now_ns(); 0: none). */
void cblk_chunk_wait(struct cblk_chunk *c, uint64_t deadline_ns);
/* Lock held. Has the bell rung at the next end, and gives its descriptor; -EALREADY when something has ended. */
int cblk_chunk_arm(struct cblk_chunk *c);
uint32_t cblk_chunk_pending(const struct cblk_chunk *c);

/* Remembers why a service was refused. */
void cblk_remember(const char *text);

#endif
