/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The ublk front end: life and death of a device. A device outlives the death of its server (the kernel keeps it quiesced, and I/O
 * waits); the next start with its number takes it over, and the kernel sends again what was in flight.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cbd_format.h"
#include "cxl_core.h"
#include "idle.h"
#include "queue.h"
#include "ublk_ctrl.h"
#include "ublk_queue.h"

#define PATH_LEN 32
#define RETRY_NS 10000000ULL /* 10 ms */
#define NODE_RETRIES 500U    /* udev may be busy */
#define RECOVERY_RETRIES 1000U /* the last server may still be dying */
#define DISCARD_SECTORS (1U << 21)
#define ZEROES_SECTORS (1U << 17) /* may become real writes in the backend, and others wait behind them */
#define DELETE_WAIT_S 2U
#define PAGE_SHIFT 12
#define MAX_PHYSICAL_BLOCK 65536U
#define RECOVERY_FLAGS (UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE)

struct cbd_ublk {
    struct ublk_ctrl ctrl;
    uint32_t dev_id;
    int char_fd;
    uint32_t queues;
    struct ublk_queue *queue[CBD_MAX_QUEUES];
};

static uint8_t shift_of(uint32_t power_of_two)
{
    return (uint8_t)__builtin_ctz(power_of_two);
}

static bool blocks_ok(const struct cbd_ublk_conf *conf)
{
    uint32_t logical = conf->logical_block_size, physical = conf->physical_block_size;

    return (logical == 512 || logical == 4096) && physical >= logical && physical <= MAX_PHYSICAL_BLOCK &&
           !(physical & (physical - 1)) && (!conf->discard || conf->discard_granularity);
}

static bool conf_ok(const struct cbd_channel_conf *channels, const struct cbd_ublk_conf *conf)
{
    if (conf->dev_id < -1 || !conf->queues || conf->queues > CBD_MAX_QUEUES || !blocks_ok(conf))
        return false;
    if (!conf->capacity || conf->capacity > INT64_MAX || conf->capacity % conf->logical_block_size)
        return false;
    for (uint32_t i = 1; i < conf->queues; i++) {
        if (channels[i].ring_depth != channels[0].ring_depth || channels[i].slot_bytes != channels[0].slot_bytes)
            return false;
    }
    return true;
}

/* ---- device nodes ------------------------------------------------------------------------------------------------------ */

/* The node appears, or its last user goes, a little after the kernel said so. */
static int open_char(struct cbd_ublk *u)
{
    char path[PATH_LEN];

    snprintf(path, sizeof(path), "/dev/ublkc%u", u->dev_id);
    for (unsigned i = 0;; i++) {
        u->char_fd = open(path, O_RDWR | O_CLOEXEC);
        if (u->char_fd >= 0)
            return 0;
        if ((errno != ENOENT && errno != EBUSY) || i == NODE_RETRIES)
            return -errno;
        idle_sleep(RETRY_NS);
    }
}

static int wait_for_block_node(const struct cbd_ublk *u)
{
    char path[PATH_LEN];

    snprintf(path, sizeof(path), "/dev/ublkb%u", u->dev_id);
    for (unsigned i = 0; access(path, F_OK); i++) {
        if (i == NODE_RETRIES)
            return -ENOENT;
        idle_sleep(RETRY_NS);
    }
    return 0;
}

/* ---- start -------------------------------------------------------------------------------------------------------------- */

static struct ublk_params make_params(const struct cbd_channel_conf *channel, const struct cbd_ublk_conf *conf)
{
    uint8_t physical_shift = shift_of(conf->physical_block_size);
    struct ublk_params p = {
        .types = UBLK_PARAM_BASIC,
        .attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA | (conf->read_only ? UBLK_ATTR_READ_ONLY : 0),
        .logical_bs_shift = shift_of(conf->logical_block_size),
        .physical_bs_shift = physical_shift,
        .io_opt_shift = physical_shift > PAGE_SHIFT ? physical_shift : PAGE_SHIFT,
        .io_min_shift = physical_shift,
        .max_sectors = channel->slot_bytes >> UBLK_SECTOR_SHIFT,
        .dev_sectors = conf->capacity >> UBLK_SECTOR_SHIFT,
    };

    if (conf->discard || conf->write_zeroes) {
        p.types |= UBLK_PARAM_DISCARD;
        /* The driver wants one for write-zeroes, too. */
        p.discard_granularity = conf->discard ? conf->discard_granularity : conf->logical_block_size;
        p.max_discard_sectors = conf->discard ? DISCARD_SECTORS : 0;
        p.max_write_zeroes_sectors = conf->write_zeroes ? ZEROES_SECTORS : 0;
        p.max_discard_segments = 1;
    }
    return p;
}

/* Takes over what the driver made of the device: it has at most one queue per CPU. */
static int adopt(struct cbd_ublk *u, const struct ublk_dev_info *info, const struct cbd_channel_conf *channel, uint32_t queues)
{
    u->dev_id = info->dev_id;
    if (!info->nr_hw_queues || info->nr_hw_queues > queues || info->queue_depth != channel->ring_depth ||
        info->max_io_buf_bytes != channel->slot_bytes)
        return -EINVAL;
    for (uint32_t i = info->nr_hw_queues; i < u->queues; i++)
        ublk_queue_free(u->queue[i]);
    u->queues = info->nr_hw_queues;
    return 0;
}

static int create(struct cbd_ublk *u, const struct cbd_channel_conf *channel, const struct cbd_ublk_conf *conf, uint64_t features)
{
    struct ublk_params params = make_params(channel, conf);
    struct ublk_dev_info info = {
        .nr_hw_queues = (uint16_t)conf->queues,
        .queue_depth = (uint16_t)channel->ring_depth,
        .max_io_buf_bytes = channel->slot_bytes,
        .dev_id = conf->dev_id < 0 ? UBLK_ANY_DEV : (uint32_t)conf->dev_id,
        .flags = UBLK_F_CMD_IOCTL_ENCODE | ((features & RECOVERY_FLAGS) == RECOVERY_FLAGS ? RECOVERY_FLAGS : 0),
    };
    int err = 0;

    for (uint32_t i = 0; i < u->queues && !err; i++)
        err = ublk_queue_probe(u->queue[i], conf->logical_block_size);
    if (!err)
        err = ublk_ctrl_add(&u->ctrl, &info);
    if (err)
        return err;
    err = adopt(u, &info, channel, conf->queues);
    if (!err)
        err = ublk_ctrl_set_params(&u->ctrl, u->dev_id, &params);
    if (err)
        ublk_ctrl_delete(&u->ctrl, info.dev_id, DELETE_WAIT_S);
    return err;
}

/* -EEXIST: the number belongs to a device that is not ours to continue; -EBUSY: to one with a living server. Hints (physical
 * blocks, discard) may differ: the backend may have moved to another medium, and a device in use keeps those it was made with. */
static int take_over(struct cbd_ublk *u, const struct ublk_dev_info *info, const struct cbd_channel_conf *channel,
                     const struct cbd_ublk_conf *conf)
{
    struct ublk_params wanted = make_params(channel, conf), found = {0};
    int err = ublk_ctrl_get_params(&u->ctrl, info->dev_id, &found);

    if (err)
        return err;
    if (info->state == UBLK_S_DEAD || (info->flags & RECOVERY_FLAGS) != RECOVERY_FLAGS ||
        found.dev_sectors != wanted.dev_sectors || found.logical_bs_shift != wanted.logical_bs_shift ||
        found.max_sectors != wanted.max_sectors || adopt(u, info, channel, conf->queues))
        return -EEXIST;
    for (unsigned i = 0; i < RECOVERY_RETRIES; i++) {
        err = ublk_ctrl_do(&u->ctrl, UBLK_START_USER_RECOVERY, u->dev_id);
        if (err != -EBUSY)
            return err;
        idle_sleep(RETRY_NS);
    }
    return err;
}

static int attach(struct cbd_ublk *u, const struct cbd_channel_conf *channel, const struct cbd_ublk_conf *conf, uint32_t *last_step)
{
    struct ublk_dev_info info = {0};
    uint64_t features = 0;
    int err = ublk_ctrl_features(&u->ctrl, &features);

    if (err || !(features & UBLK_F_CMD_IOCTL_ENCODE))
        return -EOPNOTSUPP;
    err = conf->dev_id < 0 ? -ENODEV : ublk_ctrl_info(&u->ctrl, (uint32_t)conf->dev_id, &info);
    *last_step = err ? UBLK_START_DEV : UBLK_END_USER_RECOVERY;
    if (err == -ENODEV)
        return create(u, channel, conf, features);
    return err ? err : take_over(u, &info, channel, conf);
}

static void set_impatient(struct cbd_ublk *u, bool impatient)
{
    for (uint32_t i = 0; i < u->queues; i++)
        ublk_queue_set_impatient(u->queue[i], impatient);
}

static bool gave_up(const struct cbd_ublk *u)
{
    for (uint32_t i = 0; i < u->queues; i++) {
        if (ublk_queue_gave_up(u->queue[i]))
            return true;
    }
    return false;
}

/* Where the driver does not tell, or no CPU of them is for us, a thread runs anywhere. */
static int start_queue(struct cbd_ublk *u, uint32_t i)
{
    cpu_set_t cpus;
    bool known = !ublk_ctrl_affinity(&u->ctrl, u->dev_id, i, &cpus);

    return ublk_queue_start(u->queue[i], u->char_fd, known ? &cpus : NULL);
}

static int run_device(struct cbd_ublk *u, uint32_t last_step)
{
    int err = open_char(u);

    for (uint32_t i = 0; i < u->queues && !err; i++)
        err = start_queue(u, i);
    if (err)
        return err;
    set_impatient(u, true); /* up to Linux 6.12 the partition table is read before START_DEV returns */
    err = ublk_ctrl_do(&u->ctrl, last_step, u->dev_id);
    if (!err)
        err = wait_for_block_node(u);
    if (!err && gave_up(u))
        err = -ETIMEDOUT;
    set_impatient(u, false);
    return err;
}

/* The deletion waits for the last user of either node: ours have to go before; others see errors since the device was stopped, and
 * are not waited for. */
static void end_device(struct cbd_ublk *u)
{
    for (uint32_t i = 0; i < u->queues; i++)
        ublk_queue_join(u->queue[i]);
    if (u->char_fd >= 0)
        close(u->char_fd);
    ublk_ctrl_delete(&u->ctrl, u->dev_id, DELETE_WAIT_S);
}

static void free_all(struct cbd_ublk *u)
{
    for (uint32_t i = 0; i < u->queues; i++)
        ublk_queue_free(u->queue[i]);
    ublk_ctrl_close(&u->ctrl);
    free(u);
}

int cbd_ublk_start(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, const struct cbd_ublk_conf *conf,
                   struct cbd_ublk **out)
{
    uint32_t last_step;
    struct cbd_ublk *u;
    int err;

    if (!channels || !conf || !conf_ok(channels, conf))
        return -EINVAL;
    u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->char_fd = -1;
    err = ublk_ctrl_open(&u->ctrl);
    if (err) {
        free(u);
        return err;
    }
    /* What can fail for want of memory fails before a device exists or is taken over. */
    for (; u->queues < conf->queues && !err; u->queues += !err)
        err = ublk_queue_new(mem, &channels[u->queues], &conf->idle, (uint16_t)u->queues, &u->queue[u->queues]);
    if (!err)
        err = attach(u, channels, conf, &last_step);
    if (!err) {
        err = run_device(u, last_step);
        if (err) {
            ublk_ctrl_do(&u->ctrl, UBLK_STOP_DEV, u->dev_id);
            end_device(u);
        }
    }
    if (err) {
        free_all(u);
        return err;
    }
    *out = u;
    return 0;
}

/* ---- later --------------------------------------------------------------------------------------------------------------- */

int cbd_ublk_dev_id(const struct cbd_ublk *u)
{
    return (int)u->dev_id;
}

static int order_all(struct cbd_ublk *u, const struct order *order)
{
    int err = 0;

    for (uint32_t i = 0; i < u->queues && !err; i++)
        err = ublk_queue_order(u->queue[i], order);
    return err;
}

/* Of channels beyond the queues that the driver made, nothing is wanted. */
static int check_rebind(const struct cbd_ublk *u, const struct cbd_channel_conf *channels)
{
    int err = channels && cbd_channels_twice(channels, u->queues) == u->queues ? 0 : -EINVAL;

    for (uint32_t i = 0; i < u->queues && !err; i++)
        err = ublk_queue_check_rebind(u->queue[i], &channels[i]);
    return err;
}

int cbd_ublk_rebind(struct cbd_ublk *u, const struct cbd_channel_conf *channels)
{
    int err = check_rebind(u, channels);

    if (!err)
        err = order_all(u, &(struct order){.kind = ORDER_HOLD});
    for (uint32_t i = 0; i < u->queues && !err; i++)
        err = ublk_queue_order(u->queue[i], &(struct order){.kind = ORDER_REBIND, .channel = &channels[i]});
    return err;
}

int cbd_ublk_set_offline(struct cbd_ublk *u, int32_t error)
{
    return order_all(u, &(struct order){.kind = ORDER_OFFLINE, .error = error});
}

void cbd_ublk_stats(struct cbd_ublk *u, uint32_t queue, struct cbd_stats *out)
{
    *out = (struct cbd_stats){0};
    if (queue < u->queues)
        ublk_queue_sum_stats(u->queue[queue], out);
}

/* An open waits while somebody reads the partition table or closes a written device, and these wait for the backend. */
static int open_exclusively(struct cbd_ublk *u)
{
    char path[PATH_LEN];
    int fd;

    snprintf(path, sizeof(path), "/dev/ublkb%u", u->dev_id);
    fd = ublk_ctrl_open_file(&u->ctrl, path, O_RDONLY | O_EXCL, UBLK_PATIENCE_S);
    if (fd != -ETIME)
        return fd;
    set_impatient(u, true);
    return ublk_ctrl_await(&u->ctrl, 0);
}

int cbd_ublk_stop(struct cbd_ublk *u)
{
    /* Held until the disk is gone, so that nobody can mount it in between. Fails with anything else than -EBUSY when the device
     * went away already: then there is all the more to clean up. */
    int hold = open_exclusively(u);
    int err;

    if (hold == -EBUSY) {
        set_impatient(u, false);
        return -EBUSY;
    }
    set_impatient(u, true);
    if (hold >= 0)
        fsync(hold); /* what a closed file system left in the volatile cache; its errors went to those who wrote */
    err = ublk_ctrl_do(&u->ctrl, UBLK_STOP_DEV, u->dev_id);
    if (hold >= 0)
        close(hold);
    if (err && err != -ENODEV) {
        set_impatient(u, false);
        return err;
    }
    end_device(u);
    free_all(u);
    return 0;
}
