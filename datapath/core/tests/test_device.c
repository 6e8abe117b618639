/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the backing device does wrong reaches the caller, and a real block device works like a file.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include "fixture.h"

static uint8_t data[SLOT_BYTES], back[SLOT_BYTES];

static enum cbd_engine engine;

/* A fixture on channel 0 and 1 over another descriptor than the usual file. */
static void start_on(struct fixture *f, int fd, uint32_t read_only)
{
    *f = (struct fixture){.engine = engine};
    fixture_memory(f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(f);
    fixture_backend(f, fd < 0 ? f->fd : fd, read_only);
    CHECK_EQ(cbd_queue_new(&f->mem, &f->conf[0], &f->queue[0]), 0);
}

static void test_read_only(void)
{
    struct fixture f;

    TEST("read-only backend");
    start_on(&f, -1, 1);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 4096, data), -EROFS);
    CHECK_EQ(do_io(&f, CBD_DISCARD, 0, 0, 4096, NULL), -EROFS);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 0, 4096, NULL), -EROFS);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 4096, back), 0);
    CHECK_EQ(do_io(&f, CBD_FLUSH, 0, 0, 0, NULL), 0);
    CHECK_EQ(backend_stats(&f).errors, 3);
    CHECK_EQ(backend_stats(&f).bad_slots, 0);
    fixture_stop(&f);
}

static void test_read_only_channel(void)
{
    struct fixture f = {.engine = engine};

    TEST("read-only channel of a backend that is not");
    fixture_memory(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(&f);
    f.conf[0].flags = CBD_CHANNEL_READ_ONLY;
    fixture_backend(&f, f.fd, 0);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[0], &f.queue[0]), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 4096, data), -EROFS);
    CHECK_EQ(do_io(&f, CBD_WRITE, CBD_FUA, 0, 4096, data), -EROFS);
    CHECK_EQ(do_io(&f, CBD_DISCARD, 0, 0, 4096, NULL), -EROFS);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 0, 4096, NULL), -EROFS);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 100, data), -EINVAL); /* what is wrong stays wrong */
    CHECK_EQ(do_io(&f, CBD_FLUSH, 0, 0, 0, NULL), 0);
    CHECK_EQ(pread(f.fd, back, 4096, 0), 4096);
    for (unsigned i = 0; i < 4096; i++)
        CHECK_EQ(back[i], 0);
    cbd_queue_free(f.queue[0]);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[1], &f.queue[0]), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 4096, data), 0);
    cbd_queue_free(f.queue[0]);
    f.conf[0].epoch++;
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0);
    CHECK_EQ(cbd_backend_add(f.backend, &f.conf[0]), 0);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[0], &f.queue[0]), 0);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 4096, back), 0);
    CHECK_EQ(memcmp(back, data, 4096), 0);
    fixture_stop(&f);
}

static void test_descriptor_without_write(void)
{
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct fixture f;

    TEST("descriptor that is not open for writing");
    start_on(&f, fd, 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 512, data), -EBADF);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 512, back), 0);
    CHECK_EQ(memcmp(back, "\177ELF", 4), 0);
    fixture_stop(&f);
    close(fd);
}

static void test_full_device(void)
{
    int fd = open("/dev/full", O_RDWR | O_CLOEXEC);
    struct fixture f;

    TEST("full device");
    start_on(&f, fd, 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 4096, data), -ENOSPC);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 4096, back), 0);
    CHECK(do_io(&f, CBD_DISCARD, 0, 0, 4096, NULL) < 0);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 0, 4096, NULL) < 0, 1);
    fixture_stop(&f);
    close(fd);
}

/* Reading where a process has no memory is an error of the medium that everybody can have. */
static void test_read_error(void)
{
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    struct fixture f;

    TEST("read errors");
    start_on(&f, fd, 1);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 4096, back), -EIO);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 4096, 512, back), -EIO);
    CHECK_EQ(backend_stats(&f).errors, 2);
    fixture_stop(&f);
    close(fd);
}

/* A sparse file on a file system of 64 KiB that nobody else sees and that goes away with the descriptor; -1: not allowed. */
static int open_on_small_file_system(void)
{
    char folder[] = "/tmp/cxl-core-test-XXXXXX", path[sizeof(folder) + 5];
    int fd = -1;

    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return -1;
    CHECK(mkdtemp(folder));
    if (!mount("tmpfs", folder, "tmpfs", 0, "size=64k")) {
        snprintf(path, sizeof(path), "%s/disk", folder);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        CHECK_EQ(ftruncate(fd, CAPACITY), 0);
        CHECK_EQ(umount2(folder, MNT_DETACH), 0);
    }
    CHECK_EQ(rmdir(folder), 0);
    return fd;
}

static bool test_full_file_system(void)
{
    int fd = open_on_small_file_system();
    int32_t result = 0;
    uint32_t n = 0;
    struct fixture f;

    if (fd < 0)
        return false;
    TEST("full file system");
    start_on(&f, fd, 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, CAPACITY - 4096, 4096, data), 0); /* so that the last write finds room for its half */
    while (!result && n < CAPACITY)
        result = do_io(&f, CBD_WRITE, 0, SLOT_BYTES * n++, SLOT_BYTES, data);
    CHECK_EQ(result, -ENOSPC);
    CHECK_EQ(n, 8); /* 4 KiB + 7 x 8 KiB + 4 KiB */
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, CAPACITY / 2, 4096, NULL), -ENOSPC);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 6 * SLOT_BYTES, SLOT_BYTES, back), 0);
    CHECK_EQ(memcmp(back, data, SLOT_BYTES), 0);
    CHECK_EQ(do_io(&f, CBD_DISCARD, 0, 0, 2 * SLOT_BYTES, NULL), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 7 * SLOT_BYTES, SLOT_BYTES, data), 0);
    fixture_stop(&f);
    close(fd);
    return true;
}

static void test_file_size_limit(void)
{
    struct rlimit before, small;
    struct fixture f;

    TEST("file size limit: an error, not the end of the process");
    start_on(&f, -1, 0);
    CHECK_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = (struct rlimit){.rlim_cur = 4096, .rlim_max = before.rlim_max};
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 8192, 4096, data), -EFBIG);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 0, 8192, data), -EFBIG); /* half of it would go */
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, 8192, 4096, data), 0);
    fixture_stop(&f);
}

static void test_shrunken_file(void)
{
    struct fixture f;

    TEST("file that lost its end");
    start_on(&f, -1, 0);
    CHECK_EQ(ftruncate(f.fd, 4096), 0);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 4096, 4096, back), -EIO);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 8192, back), -EIO);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 0, 4096, back), 0);
    fixture_stop(&f);
}

/* memfd has no ZERO_RANGE, hence zeroes are written the long way, in more than one part. */
static void test_zeroes_the_long_way(void)
{
    int fd = memfd_create("backing", MFD_CLOEXEC);
    struct fixture f;

    TEST("zeroes where the file system cannot");
    CHECK_EQ(ftruncate(fd, CAPACITY), 0);
    start_on(&f, fd, 0);
    for (uint32_t off = 0; off < 5 * SLOT_BYTES; off += SLOT_BYTES)
        CHECK_EQ(do_io(&f, CBD_WRITE, 0, off, SLOT_BYTES, data), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 512, 4 * SLOT_BYTES, NULL), 0);
    for (uint32_t off = 0; off < 5 * SLOT_BYTES; off += 512) {
        bool zero = off >= 512 && off < 512 + 4 * SLOT_BYTES;

        CHECK_EQ(pread(fd, back, 512, off), 512);
        for (unsigned i = 0; i < 512; i++)
            CHECK_EQ(back[i], zero ? 0 : data[(off + i) % SLOT_BYTES]);
    }
    fixture_stop(&f);
    close(fd);
}

/* A loop device that goes away when it is closed; -1 with a reason in errno. */
static int open_loop(int file)
{
    struct loop_config config = {.fd = (uint32_t)file, .block_size = 512, .info = {.lo_flags = LO_FLAGS_AUTOCLEAR}};
    char path[32];
    int writable = 0; /* the flag of an earlier user stays with the number */
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number, fd;

    if (control < 0)
        return -1;
    number = ioctl(control, LOOP_CTL_GET_FREE);
    close(control);
    if (number < 0)
        return -1;
    snprintf(path, sizeof(path), "/dev/loop%d", number);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && (ioctl(fd, LOOP_CONFIGURE, &config) || ioctl(fd, BLKROSET, &writable))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool test_block_device(void)
{
    struct fixture f = {.engine = engine, .is_block = 1};
    int loop;

    fixture_memory(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(&f);
    CHECK_EQ(ftruncate(f.fd, CAPACITY / 2), 0);
    loop = open_loop(f.fd);
    if (loop < 0) {
        fixture_stop(&f);
        return false;
    }
    TEST("block device");
    fixture_backend(&f, loop, 0);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[0], &f.queue[0]), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE, CBD_FUA, 4096, SLOT_BYTES, data), 0);
    CHECK_EQ(pread(f.fd, back, SLOT_BYTES, 4096), SLOT_BYTES);
    CHECK_EQ(memcmp(back, data, SLOT_BYTES), 0);
    CHECK_EQ(do_io(&f, CBD_WRITE_ZEROES, 0, 4096, 512, NULL), 0);
    CHECK_EQ(do_io(&f, CBD_DISCARD, CBD_FUA, 8192, 4096, NULL), 0);
    CHECK_EQ(do_io(&f, CBD_FLUSH, 0, 0, 0, NULL), 0);
    CHECK_EQ(do_io(&f, CBD_READ, 0, 4096, SLOT_BYTES, back), 0);
    for (unsigned i = 0; i < SLOT_BYTES; i++)
        CHECK_EQ(back[i], i < 512 || i >= 4096 ? 0 : data[i]);
    CHECK_EQ(do_io(&f, CBD_READ, 0, CAPACITY / 2, 4096, back), -EIO);
    CHECK_EQ(do_io(&f, CBD_READ, 0, CAPACITY / 2 - 4096, SLOT_BYTES, back), -EIO);
    CHECK_EQ(do_io(&f, CBD_WRITE, 0, CAPACITY / 2, 4096, data), -ENOSPC);
    CHECK(do_io(&f, CBD_DISCARD, 0, CAPACITY / 2, 4096, NULL) < 0);
    fixture_stop(&f);
    close(loop);
    return true;
}

int main(void)
{
    bool all = true;
    uint64_t state = 21;

    fill_random(data, sizeof(data), &state);
    FOR_EACH_ENGINE (kind) {
        SKIP_WITHOUT(kind);
        engine = kind;
        test_read_only();
        test_read_only_channel();
        test_descriptor_without_write();
        test_full_device();
        test_read_error();
        test_file_size_limit();
        test_shrunken_file();
        test_zeroes_the_long_way();
        all = test_full_file_system() && all;
        all = test_block_device() && all;
    }
    if (!all)
        SKIP("no loop device or no mount can be made here, so block devices or full file systems were not tested (needs root)");
    return 0;
}
