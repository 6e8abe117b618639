/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The engine of a LUN with honest applications: direct and virtual handles, resizing under load, bells, contexts that come and go.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "lun_fixture.h"

static struct lun_fixture f;

static struct cxlflash_command io(uint8_t op, uint32_t handle, uint64_t lba, uint32_t blocks)
{
    return (struct cxlflash_command){.tag = 1, .op = op, .handle = handle, .lba = lba, .blocks = blocks};
}

static void write_blocks(struct app *app, uint32_t handle, uint64_t lba, uint32_t blocks, uint8_t pattern)
{
    struct cxlflash_command cmd = io(CXLFLASH_WRITE, handle, lba, blocks);

    memset(app_write_slot(app, cmd.tag), pattern, (size_t)blocks * CXLFLASH_BLOCK);
    CHECK_EQ(app_ask(app, &cmd), 0);
}

static void expect_file(uint64_t block, uint8_t pattern)
{
    uint8_t bytes[CXLFLASH_BLOCK];

    CHECK_EQ(pread(f.fd, bytes, sizeof(bytes), (off_t)(block * CXLFLASH_BLOCK)), sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++)
        CHECK_EQ(bytes[i], pattern);
}

static void test_direct(void)
{
    struct cxlflash_command cmd;
    struct app app;

    TEST("a direct handle reaches every block of the LUN in its order");
    app_open(&f, &app, 0, 8, 0);
    CHECK_EQ(cxl_lun_set(f.lun, 0, 3, LUN_BLOCKS, NULL, 0), 0);
    write_blocks(&app, 3, LUN_BLOCKS - 32, 32, 0x31);
    expect_file(LUN_BLOCKS - 32, 0x31);
    expect_file(LUN_BLOCKS - 1, 0x31);
    cmd = io(CXLFLASH_READ, 3, LUN_BLOCKS - 1, 1);
    CHECK_EQ(app_ask(&app, &cmd), 0);
    CHECK_EQ(app_read_slot(&app, cmd.tag)[4095], 0x31);
    cmd = io(CXLFLASH_SYNC, 3, 0, 0);
    CHECK_EQ(app_ask(&app, &cmd), 0);
    cmd = io(CXLFLASH_UNMAP, 3, LUN_BLOCKS - 2, 2);
    CHECK_EQ(app_ask(&app, &cmd), 0);
    expect_file(LUN_BLOCKS - 1, 0);
    expect_file(LUN_BLOCKS - 3, 0x31);
    CHECK_EQ(cxl_lun_remove(f.lun, 0), 0);
    CHECK_EQ(cxl_lun_remove(f.lun, 0), -ENOENT);
    app_close(&app);
}

static void test_virtual(void)
{
    const uint32_t chunks[] = {7, 2, 40};
    struct cxlflash_command cmd;
    struct app app;

    TEST("a virtual handle reaches its chunks, across their borders, and nothing behind its size");
    app_open(&f, &app, 1, 8, 0);
    CHECK_EQ(cxl_lun_set(f.lun, 1, 0, 3 * LUN_CHUNK - 5, chunks, 3), 0);
    write_blocks(&app, 0, LUN_CHUNK - 16, 32, 0x42);
    expect_file(7 * LUN_CHUNK + LUN_CHUNK - 16, 0x42);
    expect_file(8 * LUN_CHUNK, 0);
    expect_file(2 * LUN_CHUNK + 15, 0x42);
    expect_file(2 * LUN_CHUNK + 16, 0);
    write_blocks(&app, 0, 3 * LUN_CHUNK - 6, 1, 0x43);
    expect_file(40 * LUN_CHUNK + LUN_CHUNK - 6, 0x43);
    cmd = io(CXLFLASH_WRITE, 0, 3 * LUN_CHUNK - 6, 2);
    CHECK_EQ(app_ask(&app, &cmd), -ERANGE);
    cmd = io(CXLFLASH_UNMAP, 0, 0, 3 * LUN_CHUNK - 5);
    CHECK_EQ(app_ask(&app, &cmd), 0);
    expect_file(7 * LUN_CHUNK + LUN_CHUNK - 16, 0);
    expect_file(40 * LUN_CHUNK + LUN_CHUNK - 6, 0);

    TEST("smaller, and closed");
    CHECK_EQ(cxl_lun_set(f.lun, 1, 0, 10, chunks, 1), 0);
    cmd = io(CXLFLASH_READ, 0, 10, 1);
    CHECK_EQ(app_ask(&app, &cmd), -ERANGE);
    CHECK_EQ(cxl_lun_clear(f.lun, 1, 0), 0);
    CHECK_EQ(cxl_lun_clear(f.lun, 1, 0), -ENOENT);
    cmd.lba = 0;
    CHECK_EQ(app_ask(&app, &cmd), -EBADF);
    CHECK_EQ(cxl_lun_remove(f.lun, 1), 0);
    app_close(&app);
}

static void test_arguments(void)
{
    const uint32_t beyond[] = {LUN_BLOCKS / LUN_CHUNK};
    struct cxl_lun_conf conf = {.fd = f.fd, .logical_block_size = 512, .blocks = 1, .chunk_blocks = 32};
    struct cxl_lun_context_conf context = {.depth = 8};
    struct cxl_lun *lun;
    struct app app;
    int open_file = memfd_create("open", MFD_CLOEXEC), bells[2];

    TEST("arguments that make no sense");
    for (uint32_t bad = 0; bad < 5; bad++) {
        struct cxl_lun_conf wrong = conf;

        switch (bad) {
        case 0: wrong.fd = -1; break;
        case 1: wrong.blocks = 0; break;
        case 2: wrong.chunk_blocks = 31; break;
        case 3: wrong.logical_block_size = 520; break;
        default: wrong.engine = 77; break;
        }
        CHECK_EQ(cxl_lun_new(&wrong, &lun), -EINVAL);
    }
    app_open(&f, &app, 5, 2, 0);
    CHECK_EQ(cxl_lun_set(f.lun, 6, 0, 1, NULL, 0), -ENOENT);
    CHECK_EQ(cxl_lun_set(f.lun, 5, CXLFLASH_HANDLES_MAX, 1, NULL, 0), -EINVAL);
    CHECK_EQ(cxl_lun_set(f.lun, 5, 0, LUN_BLOCKS + 1, NULL, 0), -EINVAL);
    CHECK_EQ(cxl_lun_set(f.lun, 5, 0, 1, beyond, 1), -EINVAL);
    CHECK_EQ(cxl_lun_set(f.lun, 5, 0, LUN_CHUNK + 1, (const uint32_t[]){0}, 1), -EINVAL);
    CHECK_EQ(cxl_lun_set_blocks(f.lun, 0), -EINVAL);

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, bells), 0);
    context.user_fd = context.master_fd = area_file(cxlflash_area_bytes(8));
    context.bell_fd = bells[0];
    CHECK_EQ(cxl_lun_add(f.lun, 5, &context), -EEXIST);
    CHECK_EQ(cxl_lun_add(f.lun, CXLFLASH_CONTEXTS_MAX, &context), -EINVAL);
    for (uint32_t depth = 0; depth <= 512; depth = depth ? depth * 2 + 1 : 1) {
        context.depth = depth;
        CHECK_EQ(cxl_lun_add(f.lun, 6, &context), -EINVAL);
    }
    context.depth = 8;
    context.user_fd = open_file; /* it could shrink under us */
    CHECK_EQ(ftruncate(open_file, (off_t)cxlflash_area_bytes(8)), 0);
    CHECK_EQ(cxl_lun_add(f.lun, 6, &context), -EINVAL);
    context.user_fd = area_file(cxlflash_area_bytes(16));
    CHECK_EQ(cxl_lun_add(f.lun, 6, &context), -EINVAL);
    CHECK_EQ(cxl_lun_remove(f.lun, 5), 0);
    app_close(&app);
    close(context.user_fd);
    close(context.master_fd);
    close(open_file);
    close(bells[0]);
    close(bells[1]);
}

static void test_read_only(void)
{
    struct cxlflash_command cmd = io(CXLFLASH_WRITE, 0, 0, 1);
    struct app app;

    TEST("a context that only reads");
    app_open(&f, &app, 2, 2, 1);
    CHECK_EQ(cxl_lun_set(f.lun, 2, 0, LUN_BLOCKS, NULL, 0), 0);
    CHECK_EQ(app_ask(&app, &cmd), -EROFS);
    cmd.op = CXLFLASH_UNMAP;
    CHECK_EQ(app_ask(&app, &cmd), -EROFS);
    cmd.op = CXLFLASH_READ;
    CHECK_EQ(app_ask(&app, &cmd), 0);
    CHECK_EQ(cxl_lun_remove(f.lun, 2), 0);
    app_close(&app);
}

static void test_sleep(void)
{
    struct cxlflash_command cmd = io(CXLFLASH_READ, 0, 0, 1);
    const struct cxlflash_engine_line *line;
    struct app app;

    TEST("an engine that sleeps is woken by the bell");
    app_open(&f, &app, 3, 2, 0);
    line = (const void *)(app.master + CXLFLASH_LINE);
    CHECK_EQ(cxl_lun_set(f.lun, 3, 0, LUN_BLOCKS, NULL, 0), 0);
    for (int i = 0; i < 3; i++) {
        while (!__atomic_load_n(&line->sleeping, __ATOMIC_ACQUIRE))
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        CHECK_EQ(app_ask(&app, &cmd), 0);
    }
    CHECK_EQ(cxl_lun_remove(f.lun, 3), 0);
    app_close(&app);
}

static void test_gone(void)
{
    struct cxlflash_command cmd = io(CXLFLASH_READ, 0, 0, 1);
    struct app gone, other;
    uint64_t before;

    TEST("an application that went away leaves the others alone, and the engine asleep");
    app_open(&f, &gone, 3, 2, 0);
    app_open(&f, &other, 4, 2, 0);
    CHECK_EQ(cxl_lun_set(f.lun, 4, 0, LUN_BLOCKS, NULL, 0), 0);
    app_close(&gone);
    CHECK_EQ(app_ask(&other, &cmd), 0);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    before = lun_counters(&f).sleeps;
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    CHECK(lun_counters(&f).sleeps <= before + 2);
    CHECK_EQ(app_ask(&other, &cmd), 0);
    CHECK_EQ(cxl_lun_remove(f.lun, 3), 0);
    CHECK_EQ(cxl_lun_remove(f.lun, 4), 0);
    app_close(&other);
}

static void test_fail(void)
{
    struct app app;

    TEST("all ones for everybody");
    app_open(&f, &app, 9, 2, 0);
    CHECK_EQ(((const struct cxlflash_status_line *)(const void *)app.master)->status, 0);
    cxl_lun_fail(f.lun);
    CHECK(((const struct cxlflash_status_line *)(const void *)app.master)->status == CXLFLASH_ERROR);
    CHECK_EQ(cxl_lun_remove(f.lun, 9), 0);
    app_close(&app);
}

/* ---- resizing under load ------------------------------------------------------------------------------------------------ */

#define LOADS 4U
#define ROUNDS 400U

static atomic_uint running;

static void *load(void *arg)
{
    uint32_t slot = *(const uint32_t *)arg;
    struct app app;

    app_open(&f, &app, slot, 8, 0);
    CHECK_EQ(cxl_lun_set(f.lun, slot, 0, LUN_CHUNK, (const uint32_t[]){slot * 2}, 1), 0);
    atomic_fetch_add(&running, 1);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct cxlflash_command cmd = io(CXLFLASH_READ, 0, i % LUN_CHUNK, 1);
        uint8_t pattern = (uint8_t)(slot + i);

        write_blocks(&app, 0, cmd.lba, 1, pattern);
        CHECK_EQ(app_ask(&app, &cmd), 0);
        CHECK_EQ(app_read_slot(&app, cmd.tag)[i], pattern);
    }
    CHECK_EQ(cxl_lun_remove(f.lun, slot), 0);
    app_close(&app);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void test_resize_under_load(void)
{
    uint32_t slots[LOADS], changes = 0;
    pthread_t threads[LOADS];

    TEST("handles change while others and they themselves are used");
    for (uint32_t i = 0; i < LOADS; i++) {
        slots[i] = 10 + i;
        CHECK_EQ(pthread_create(&threads[i], NULL, load, &slots[i]), 0);
    }
    while (atomic_load(&running) < LOADS)
        ;
    while (atomic_load(&running)) {
        uint32_t slot = 10 + changes % LOADS;

        cxl_lun_set(f.lun, slot, 0, LUN_CHUNK + changes % LUN_CHUNK, (const uint32_t[]){slot * 2, slot * 2 + 1}, 2);
        changes++;
    }
    for (uint32_t i = 0; i < LOADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(changes > 0);
}

static void test_shrunk_medium(void)
{
    struct cxlflash_command cmd = io(CXLFLASH_READ, 0, LUN_BLOCKS - 1, 1);
    struct app app;

    TEST("a medium that became smaller");
    app_open(&f, &app, 0, 2, 0);
    CHECK_EQ(cxl_lun_set(f.lun, 0, 0, LUN_BLOCKS, NULL, 0), 0);
    CHECK_EQ(cxl_lun_set_blocks(f.lun, LUN_BLOCKS / 2), 0);
    CHECK_EQ(app_ask(&app, &cmd), -EIO);
    cmd.lba = 0;
    CHECK_EQ(app_ask(&app, &cmd), 0);
    CHECK_EQ(cxl_lun_set_blocks(f.lun, LUN_BLOCKS), 0);
    CHECK_EQ(ftruncate(f.fd, (off_t)(LUN_BLOCKS / 2) * CXLFLASH_BLOCK), 0); /* and nobody has told us */
    cmd.lba = LUN_BLOCKS - 1;
    CHECK_EQ(app_ask(&app, &cmd), -EIO);
    CHECK_EQ(ftruncate(f.fd, (off_t)LUN_BLOCKS * CXLFLASH_BLOCK), 0);
    CHECK_EQ(cxl_lun_remove(f.lun, 0), 0);
    app_close(&app);
}

int main(void)
{
    for (uint32_t engine = CBD_ENGINE_AUTO; engine <= CBD_ENGINE_INLINE; engine++) {
        if (!lun_fixture_open(&f, engine))
            continue; /* a kernel without io_uring */
        test_direct();
        test_virtual();
        test_arguments();
        test_read_only();
        test_sleep();
        test_gone();
        test_fail();
        test_resize_under_load();
        test_shrunk_medium();
        lun_fixture_close(&f);
    }
    return 0;
}
