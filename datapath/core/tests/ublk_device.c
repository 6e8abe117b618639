/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "ublk_device.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

void need_ublk(void)
{
    if (access("/dev/ublk-control", R_OK | W_OK))
        SKIP("/dev/ublk-control is not there: ublk needs root, and the module ublk_drv");
}

struct cbd_ublk_conf ublk_conf(int dev_id)
{
    return (struct cbd_ublk_conf){.dev_id = dev_id,
                                  .queues = CHANNELS,
                                  .capacity = CAPACITY,
                                  .logical_block_size = BLOCK,
                                  .discard = 1,
                                  .write_zeroes = 1,
                                  .physical_block_size = PHYSICAL,
                                  .discard_granularity = GRANULARITY};
}

void next_epoch(struct fixture *f)
{
    uint64_t first = f->conf[0].channel_off;

    f->conf[0].channel_off = f->conf[1].channel_off;
    f->conf[1].channel_off = first;
    for (uint32_t i = 0; i < CHANNELS; i++) {
        int err = cbd_backend_remove(f->backend, f->conf[i].channel_off);

        CHECK(!err || err == -ENOENT);
        f->conf[i].epoch++;
        CHECK_EQ(cbd_backend_add(f->backend, &f->conf[i]), 0);
    }
}

void silence_backend(struct fixture *f)
{
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_remove(f->backend, f->conf[i].channel_off), 0);
}

struct cbd_ublk *start_ublk(struct fixture *f, const struct cbd_ublk_conf *conf)
{
    struct cbd_ublk *u = NULL;

    next_epoch(f);
    CHECK_EQ(cbd_ublk_start(&f->mem, f->conf, conf, &u), 0);
    return u;
}

int open_device(int dev_id, int flags)
{
    char path[32];

    snprintf(path, sizeof(path), "/dev/ublkb%d", dev_id);
    return open(path, flags | O_CLOEXEC);
}
