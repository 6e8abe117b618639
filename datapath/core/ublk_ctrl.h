/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands of the ublk control device. All return 0 (or a descriptor) or a negated errno.
 */
#ifndef CXL_UBLK_CTRL_H
#define CXL_UBLK_CTRL_H

#include <liburing.h>
#include <sched.h>

#include "ublk_abi.h"

struct ublk_ctrl {
    int fd;
    struct io_uring ring;
};

int ublk_ctrl_open(struct ublk_ctrl *ctrl);
void ublk_ctrl_close(struct ublk_ctrl *ctrl);

int ublk_ctrl_features(struct ublk_ctrl *ctrl, uint64_t *features);
/* info->dev_id may be UBLK_ANY_DEV; on return info is what the driver made of it. */
int ublk_ctrl_add(struct ublk_ctrl *ctrl, struct ublk_dev_info *info);
int ublk_ctrl_info(struct ublk_ctrl *ctrl, uint32_t dev_id, struct ublk_dev_info *info);
int ublk_ctrl_set_params(struct ublk_ctrl *ctrl, uint32_t dev_id, struct ublk_params *params);
int ublk_ctrl_get_params(struct ublk_ctrl *ctrl, uint32_t dev_id, struct ublk_params *params);
/* The CPUs whose requests come to a queue. */
int ublk_ctrl_affinity(struct ublk_ctrl *ctrl, uint32_t dev_id, uint32_t queue, cpu_set_t *cpus);
/* One of START_DEV, STOP_DEV, START_USER_RECOVERY, END_USER_RECOVERY. */
int ublk_ctrl_do(struct ublk_ctrl *ctrl, uint32_t op, uint32_t dev_id);
/* Waits at most timeout_s for the last user to go; after -ETIME the device goes with him, and ctrl can only be closed. */
int ublk_ctrl_delete(struct ublk_ctrl *ctrl, uint32_t dev_id, uint32_t timeout_s);

/* Opens a file like open(2), but waits at most timeout_s: after -ETIME the open goes on, and ublk_ctrl_await() gives its result. */
int ublk_ctrl_open_file(struct ublk_ctrl *ctrl, const char *path, int flags, uint32_t timeout_s);
/* Waits for what is under way; timeout_s 0: for ever. */
int ublk_ctrl_await(struct ublk_ctrl *ctrl, uint32_t timeout_s);

#endif
