/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "device.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

int device_check(const struct device *dev, uint64_t offset, uint32_t len)
{
    if (!len || offset % dev->logical_block_size || len % dev->logical_block_size)
        return -EINVAL;
    return offset <= dev->capacity && len <= dev->capacity - offset ? 0 : -EINVAL;
}

/* The kernel may do less than it was asked for; doing nothing at all means that the device ends before its capacity. */
static bool progress(ssize_t done, uint32_t *todo, int *err)
{
    if (done > 0) {
        *todo -= (uint32_t)done;
        return *todo > 0;
    }
    if (done < 0 && errno == EINTR)
        return true;
    *err = done < 0 ? -errno : -EIO;
    return false;
}

int device_read(const struct device *dev, void *buf, uint32_t len, uint64_t offset)
{
    uint32_t todo = len;
    int err = 0;
    ssize_t n;

    do {
        uint32_t done = len - todo;

        n = pread(dev->fd, (char *)buf + done, todo, (off_t)(offset + done));
    } while (progress(n, &todo, &err));
    return err;
}

int device_write(const struct device *dev, const void *buf, uint32_t len, uint64_t offset)
{
    uint32_t todo = len;
    int err = 0;
    ssize_t n;

    do {
        uint32_t done = len - todo;

        n = pwrite(dev->fd, (const char *)buf + done, todo, (off_t)(offset + done));
    } while (progress(n, &todo, &err));
    return err;
}

int device_flush(const struct device *dev)
{
    return fdatasync(dev->fd) ? -errno : 0;
}

static int allocate(const struct device *dev, int mode, uint64_t offset, uint32_t len)
{
    int err;

    do {
        err = fallocate(dev->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, len) ? -errno : 0;
    } while (err == -EINTR);
    return err;
}

static int block_ioctl(const struct device *dev, unsigned long request, uint64_t offset, uint32_t len)
{
    uint64_t range[2] = {offset, len};

    if (!ioctl(dev->fd, request, range))
        return 0;
    return errno == ENOTTY ? -EOPNOTSUPP : -errno;
}

int device_discard(const struct device *dev, uint64_t offset, uint32_t len)
{
    if (dev->is_block)
        return block_ioctl(dev, BLKDISCARD, offset, len);
    return allocate(dev, FALLOC_FL_PUNCH_HOLE, offset, len);
}

int device_write_zeroes(const struct device *dev, uint64_t offset, uint32_t len, void *scratch, uint32_t scratch_len)
{
    int err = dev->is_block ? block_ioctl(dev, BLKZEROOUT, offset, len) : allocate(dev, FALLOC_FL_ZERO_RANGE, offset, len);

    if (err != -EOPNOTSUPP)
        return err;
    memset(scratch, 0, scratch_len);
    do {
        uint32_t part = len < scratch_len ? len : scratch_len;

        err = device_write(dev, scratch, part, offset);
        offset += part;
        len -= part;
    } while (!err && len);
    return err;
}
