/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A LUN against an application that writes what it likes into its areas: it is refused, it hurts nobody else, and nothing is touched
 * that its handles do not reach.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "lun_fixture.h"

#define DEPTH 8U
#define ROUNDS 20000U
#define MINE 5U /* the only chunk of the hostile application */

static struct lun_fixture f;
static struct app bad, good;

static struct cxlflash_command valid(uint8_t op)
{
    return (struct cxlflash_command){
        .tag = 3, .op = op, .handle = 2, .lba = op == CXLFLASH_SYNC ? 0 : 7, .blocks = op == CXLFLASH_SYNC ? 0 : 4};
}

static void test_valid(void)
{
    TEST("what is altered below is fine as it is");
    for (uint8_t op = CXLFLASH_READ; op <= CXLFLASH_SYNC; op++) {
        struct cxlflash_command cmd = valid(op);

        CHECK_EQ(app_ask(&bad, &cmd), 0);
    }
    CHECK_EQ(lun_counters(&f).refused, 0);
}

#define REFUSED(op_, field, value, error) \
    do { \
        struct cxlflash_command cmd_ = valid(op_); \
        uint64_t refused_ = lun_counters(&f).refused; \
        cmd_.field = (value); \
        CHECK_EQ(app_ask(&bad, &cmd_), (error)); \
        CHECK_EQ(lun_counters(&f).refused, refused_ + 1); \
    } while (0)

static void test_fields(void)
{
    TEST("every field");
    REFUSED(CXLFLASH_WRITE, op, 0, -EINVAL);
    REFUSED(CXLFLASH_WRITE, op, 5, -EINVAL);
    REFUSED(CXLFLASH_WRITE, op, 255, -EINVAL);
    REFUSED(CXLFLASH_WRITE, flags, 1, -EINVAL);
    REFUSED(CXLFLASH_READ, zero, 1, -EINVAL);
    REFUSED(CXLFLASH_READ, reserved[0], 1, -EINVAL);
    REFUSED(CXLFLASH_READ, reserved[3], 1ULL << 63, -EINVAL);
    REFUSED(CXLFLASH_WRITE, tag, DEPTH, -EINVAL);
    REFUSED(CXLFLASH_WRITE, tag, UINT16_MAX, -EINVAL);
    REFUSED(CXLFLASH_WRITE, handle, 0, -EBADF); /* the good application's number, closed here */
    REFUSED(CXLFLASH_WRITE, handle, CXLFLASH_HANDLES_MAX, -EBADF);
    REFUSED(CXLFLASH_WRITE, handle, UINT32_MAX, -EBADF);
    REFUSED(CXLFLASH_WRITE, lba, LUN_CHUNK - 3, -ERANGE);
    REFUSED(CXLFLASH_WRITE, lba, LUN_CHUNK, -ERANGE);
    REFUSED(CXLFLASH_WRITE, lba, UINT64_MAX, -ERANGE);
    REFUSED(CXLFLASH_WRITE, lba, UINT64_MAX - 3, -ERANGE);
    REFUSED(CXLFLASH_WRITE, lba, 1ULL << 52, -ERANGE); /* 2^64 bytes */
    REFUSED(CXLFLASH_WRITE, blocks, 0, -EINVAL);
    REFUSED(CXLFLASH_WRITE, blocks, CXLFLASH_TRANSFER_BLOCKS + 1, -EINVAL);
    REFUSED(CXLFLASH_READ, blocks, UINT32_MAX, -EINVAL);
    REFUSED(CXLFLASH_UNMAP, blocks, LUN_CHUNK, -ERANGE);
    REFUSED(CXLFLASH_UNMAP, blocks, CXLFLASH_UNMAP_BLOCKS + 1, -EINVAL);
    REFUSED(CXLFLASH_UNMAP, blocks, 0, -EINVAL);
    REFUSED(CXLFLASH_SYNC, blocks, 1, -EINVAL);
    REFUSED(CXLFLASH_SYNC, lba, 1, -EINVAL);
}

static uint64_t edgy(uint64_t *state)
{
    static const uint64_t edges[] = {0, 1, 4, DEPTH, CXLFLASH_HANDLES_MAX, CXLFLASH_TRANSFER_BLOCKS, LUN_CHUNK, LUN_BLOCKS, UINT16_MAX,
                                     INT32_MAX, UINT32_MAX, 1ULL << 52, INT64_MAX, UINT64_MAX};
    uint64_t r = rng(state);

    if (r % 4 == 0)
        return rng(state);
    return edges[(r >> 8) % (sizeof(edges) / sizeof(edges[0]))] + (r >> 16) % 3 - 1;
}

static struct cxlflash_command spoiled(uint64_t *state)
{
    struct cxlflash_command cmd = valid((uint8_t)(CXLFLASH_READ + rng(state) % 4));

    cmd.tag = (uint16_t)(rng(state) % DEPTH);
    for (uint64_t n = rng(state) % 3; n; n--) {
        switch (rng(state) % 6) {
        case 0: cmd.op = (uint8_t)edgy(state); break;
        case 1: cmd.tag = (uint16_t)edgy(state); break;
        case 2: cmd.handle = (uint32_t)edgy(state); break;
        case 3: cmd.lba = edgy(state); break;
        case 4: cmd.blocks = (uint32_t)edgy(state); break;
        default: cmd.reserved[rng(state) % 4] = edgy(state); break;
        }
    }
    if (rng(state) % 16 == 0)
        fill_random(&cmd, sizeof(cmd), state);
    return cmd;
}

/* Several at once, so that tags are used twice, and more than the ring has slots: it overwrites its own commands and answers. */
static void flood(uint64_t *state)
{
    for (uint64_t n = rng(state) % (2 * DEPTH); n; n--) {
        struct cxlflash_command cmd = spoiled(state);

        app_send(&bad, &cmd);
    }
}

static atomic_bool done;

/* Changes the slots under the engine's eyes. */
static void *scribble(void *arg)
{
    uint64_t state = 99;

    (void)arg;
    while (!atomic_load(&done)) {
        uint64_t off = CXLFLASH_RINGS + rng(&state) % (DEPTH * 8) * 8;

        if (off % CXLFLASH_LINE) /* the seq stays the sender's: a slot without one is none */
            __atomic_store_n((uint64_t *)(void *)(bad.user + off), edgy(&state), __ATOMIC_RELAXED);
    }
    return NULL;
}

static void test_fuzz(void)
{
    struct cxlflash_command probe = {.tag = 1, .op = CXLFLASH_WRITE, .lba = 9, .blocks = 2};
    uint8_t *before = malloc((size_t)LUN_BLOCKS * CXLFLASH_BLOCK), *after = malloc((size_t)LUN_BLOCKS * CXLFLASH_BLOCK);
    const size_t size = (size_t)LUN_BLOCKS * CXLFLASH_BLOCK, mine = (size_t)MINE * LUN_CHUNK * CXLFLASH_BLOCK;
    uint64_t state = 4711;
    pthread_t scribbler;

    TEST("random commands, changed while they are read: the good application never notices");
    CHECK(before && after);
    memset(app_write_slot(&good, 1), 0x77, 2 * CXLFLASH_BLOCK);
    CHECK_EQ(app_ask(&good, &probe), 0);
    CHECK_EQ(pread(f.fd, before, size, 0), (ssize_t)size);
    memset(app_write_slot(&bad, 0), 0xbb, (size_t)DEPTH * CXLFLASH_TRANSFER_BLOCKS * CXLFLASH_BLOCK);
    CHECK_EQ(pthread_create(&scribbler, NULL, scribble, NULL), 0);
    probe.op = CXLFLASH_READ;
    for (unsigned i = 0; i < ROUNDS / DEPTH; i++) {
        flood(&state);
        CHECK_EQ(app_ask(&good, &probe), 0);
        CHECK_EQ(app_read_slot(&good, 1)[4097], 0x77);
    }
    atomic_store(&done, true);
    pthread_join(scribbler, NULL);
    CHECK_EQ(cxl_lun_clear(f.lun, 0, 2), 0); /* lets what is in flight end */
    CHECK_EQ(pread(f.fd, after, size, 0), (ssize_t)size);
    memcpy(after + mine, before + mine, (size_t)LUN_CHUNK * CXLFLASH_BLOCK);
    CHECK_EQ(memcmp(before, after, size), 0);
    free(before);
    free(after);
}

static void test_bell(void)
{
    struct cxlflash_command probe = {.tag = 1, .op = CXLFLASH_READ, .lba = 9, .blocks = 2};
    struct cxlflash_user_line *line = (void *)bad.user;
    char noise[4096] = {0};

    TEST("a bell that is full, blocking, never heard or shut down");
    CHECK_EQ(fcntl(bad.bell, F_SETFL, 0), 0);
    line->sleeping = UINT32_MAX;
    for (unsigned i = 0; i < 2000; i++) {
        struct cxlflash_command cmd = valid(CXLFLASH_READ);

        app_send(&bad, &cmd);
        send(bad.bell, noise, sizeof(noise), MSG_DONTWAIT | MSG_NOSIGNAL);
        CHECK_EQ(app_ask(&good, &probe), 0);
    }
    CHECK_EQ(shutdown(bad.bell, SHUT_RDWR), 0);
    CHECK_EQ(app_ask(&good, &probe), 0);
}

int main(void)
{
    for (uint32_t engine = CBD_ENGINE_AUTO; engine <= CBD_ENGINE_INLINE; engine++) {
        atomic_store(&done, false);
        if (!lun_fixture_open(&f, engine))
            continue; /* a kernel without io_uring */
        app_open(&f, &bad, 0, DEPTH, 0);
        app_open(&f, &good, 1, DEPTH, 0);
        CHECK_EQ(cxl_lun_set(f.lun, 0, 2, LUN_CHUNK, (const uint32_t[]){MINE}, 1), 0);
        CHECK_EQ(cxl_lun_set(f.lun, 1, 0, LUN_CHUNK, (const uint32_t[]){MINE + 1}, 1), 0);
        test_valid();
        test_fields();
        test_fuzz();
        test_bell();
        app_close(&bad);
        app_close(&good);
        lun_fixture_close(&f);
    }
    return 0;
}
