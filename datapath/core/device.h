/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The backing device of a backend: a file descriptor of a file or a block device, and what one call to the kernel can do with it;
 * or a device of our own, for which `perform` does the same.
 */
#ifndef CXL_DEVICE_H
#define CXL_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

struct step;

typedef int32_t device_performer(void *ctx, const struct step *step);

struct device {
    device_performer *perform; /* NULL: the kernel, on fd */
    void *ctx;
    int fd;
    bool is_block;
    bool read_only;
    uint32_t logical_block_size;
    uint64_t capacity;
};

enum step_kind {
    STEP_READ,
    STEP_WRITE,      /* flags: RWF_* */
    STEP_SYNC,       /* what was written is stable afterwards */
    STEP_ALLOCATE,   /* flags: FALLOC_FL_* */
    STEP_BLKDISCARD, /* an ioctl: the only step that io_uring cannot do */
};

/* One call to the kernel. */
struct step {
    enum step_kind kind;
    int flags;
    uint32_t len;
    uint64_t offset;
    void *buf; /* READ, WRITE */
};

/* -EINVAL when the range is empty, not aligned to the logical block size or not inside the device. */
int device_check(const struct device *dev, uint64_t offset, uint32_t len);
/* Waits for the end of the step. Returns the bytes that were moved (READ, WRITE; fewer than asked for is no error), 0 (the others)
 * or a negated errno; just as io_uring reports it. */
int32_t device_perform(const struct device *dev, const struct step *step);

#endif
