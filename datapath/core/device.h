/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The backing device of a backend: a file descriptor of a file or a block device. Every function returns 0 or a negated errno and
 * has done all or reports an error; ranges were checked by device_check().
 */
#ifndef CXL_DEVICE_H
#define CXL_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

struct device {
    int fd;
    bool is_block;
    bool read_only;
    uint32_t logical_block_size;
    uint64_t capacity;
};

/* -EINVAL when the range is empty, not aligned to the logical block size or not inside the device. */
int device_check(const struct device *dev, uint64_t offset, uint32_t len);
int device_read(const struct device *dev, void *buf, uint32_t len, uint64_t offset);
int device_write(const struct device *dev, const void *buf, uint32_t len, uint64_t offset);
int device_flush(const struct device *dev);
int device_discard(const struct device *dev, uint64_t offset, uint32_t len);
/* scratch: aligned memory of the caller, overwritten when zeroes have to be written the long way. */
int device_write_zeroes(const struct device *dev, uint64_t offset, uint32_t len, void *scratch, uint32_t scratch_len);

#endif
