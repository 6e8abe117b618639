/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Who uses a blkdev in a simulation: requests of every kind that never overlap while they are in flight, so that there is exactly
 * one right answer to each.
 */
#ifndef CXL_SIM_USER_H
#define CXL_SIM_USER_H

#include "cxl_core.h"
#include "medium.h"

#define USER_JOBS 4U /* in flight at most */
#define USER_BLOCKS 4U /* of a request at most */

struct job {
    bool busy;
    uint32_t op;
    uint32_t block, blocks;
    uint8_t buf[USER_BLOCKS * MEDIUM_BLOCK];
};

struct user {
    struct cbd_queue *queue;
    struct job jobs[USER_JOBS];
    uint8_t content[MEDIUM_BYTES]; /* what the medium holds if everything that ended well happened */
    uint32_t sent, ended;
};

/* One more request if there is room and a range for it; any other error than -EAGAIN is returned. */
int user_submit(struct user *u);
/* Takes and checks what has ended; returns how much. */
uint32_t user_poll(struct user *u);
/* The medium holds what it must: of what is in flight either all of a block or nothing. */
void user_check_medium(const struct user *u);

#endif
