/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "ublk_ctrl.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int ublk_ctrl_open(struct ublk_ctrl *ctrl)
{
    int err;

    ctrl->fd = open(UBLK_CONTROL_PATH, O_RDWR | O_CLOEXEC);
    if (ctrl->fd < 0)
        return -errno;
    err = io_uring_queue_init(4, &ctrl->ring, IORING_SETUP_SQE128);
    if (err)
        close(ctrl->fd);
    return err;
}

void ublk_ctrl_close(struct ublk_ctrl *ctrl)
{
    io_uring_queue_exit(&ctrl->ring);
    close(ctrl->fd);
}

static int submit(struct ublk_ctrl *ctrl)
{
    int n;

    do {
        n = io_uring_submit(&ctrl->ring);
    } while (n == -EINTR);
    return n < 0 ? n : 0;
}

/* What was submitted runs on in the kernel when a signal wakes us. */
int ublk_ctrl_await(struct ublk_ctrl *ctrl, uint32_t timeout_s)
{
    struct __kernel_timespec ts = {.tv_sec = timeout_s};
    struct io_uring_cqe *cqe;
    int result;

    do {
        result = io_uring_wait_cqe_timeout(&ctrl->ring, &cqe, timeout_s ? &ts : NULL);
    } while (result == -EINTR);
    if (result < 0)
        return result;
    result = cqe->res;
    io_uring_cqe_seen(&ctrl->ring, cqe);
    return result;
}

static int command_for(struct ublk_ctrl *ctrl, uint32_t op, const struct ublk_ctrl_cmd *cmd, uint32_t timeout_s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ctrl->ring);
    int result;

    if (!sqe)
        return -EBUSY;
    memset(sqe, 0, 2 * sizeof(*sqe)); /* a 128-byte one */
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = ctrl->fd;
    sqe->cmd_op = op;
    memcpy(sqe->cmd, cmd, sizeof(*cmd));
    result = submit(ctrl);
    if (!result)
        result = ublk_ctrl_await(ctrl, timeout_s);
    return result > 0 ? 0 : result;
}

static int command(struct ublk_ctrl *ctrl, uint32_t op, const struct ublk_ctrl_cmd *cmd)
{
    return command_for(ctrl, op, cmd, 0);
}

int ublk_ctrl_open_file(struct ublk_ctrl *ctrl, const char *path, int flags, uint32_t timeout_s)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ctrl->ring);
    int err;

    if (!sqe)
        return -EBUSY;
    io_uring_prep_openat(sqe, AT_FDCWD, path, flags | O_CLOEXEC, 0);
    sqe->flags |= IOSQE_ASYNC; /* otherwise the submission itself may wait inside the open */
    err = submit(ctrl);
    return err ? err : ublk_ctrl_await(ctrl, timeout_s);
}

static struct ublk_ctrl_cmd with_buffer(uint32_t dev_id, void *buf, size_t len)
{
    return (struct ublk_ctrl_cmd){
        .dev_id = dev_id, .queue_id = UBLK_NO_QUEUE, .len = (uint16_t)len, .addr = (uint64_t)(uintptr_t)buf};
}

int ublk_ctrl_features(struct ublk_ctrl *ctrl, uint64_t *features)
{
    struct ublk_ctrl_cmd cmd = with_buffer(UBLK_ANY_DEV, features, sizeof(*features));

    return command(ctrl, UBLK_GET_FEATURES, &cmd);
}

int ublk_ctrl_add(struct ublk_ctrl *ctrl, struct ublk_dev_info *info)
{
    struct ublk_ctrl_cmd cmd = with_buffer(info->dev_id, info, sizeof(*info));

    return command(ctrl, UBLK_ADD_DEV, &cmd);
}

int ublk_ctrl_info(struct ublk_ctrl *ctrl, uint32_t dev_id, struct ublk_dev_info *info)
{
    struct ublk_ctrl_cmd cmd = with_buffer(dev_id, info, sizeof(*info));

    return command(ctrl, UBLK_GET_DEV_INFO, &cmd);
}

int ublk_ctrl_set_params(struct ublk_ctrl *ctrl, uint32_t dev_id, struct ublk_params *params)
{
    struct ublk_ctrl_cmd cmd = with_buffer(dev_id, params, sizeof(*params));

    params->len = sizeof(*params);
    return command(ctrl, UBLK_SET_PARAMS, &cmd);
}

int ublk_ctrl_get_params(struct ublk_ctrl *ctrl, uint32_t dev_id, struct ublk_params *params)
{
    struct ublk_ctrl_cmd cmd = with_buffer(dev_id, params, sizeof(*params));

    params->len = sizeof(*params);
    return command(ctrl, UBLK_GET_PARAMS, &cmd);
}

int ublk_ctrl_affinity(struct ublk_ctrl *ctrl, uint32_t dev_id, uint32_t queue, cpu_set_t *cpus)
{
    struct ublk_ctrl_cmd cmd = with_buffer(dev_id, cpus, sizeof(*cpus));

    cmd.data = queue;
    return command(ctrl, UBLK_GET_QUEUE_AFFINITY, &cmd);
}

int ublk_ctrl_do(struct ublk_ctrl *ctrl, uint32_t op, uint32_t dev_id)
{
    struct ublk_ctrl_cmd cmd = with_buffer(dev_id, NULL, 0);

    cmd.data = (uint64_t)getpid();
    return command(ctrl, op, &cmd);
}

int ublk_ctrl_delete(struct ublk_ctrl *ctrl, uint32_t dev_id, uint32_t timeout_s)
{
    struct ublk_ctrl_cmd cmd = with_buffer(dev_id, NULL, 0);

    return command_for(ctrl, UBLK_DEL_DEV, &cmd, timeout_s);
}
