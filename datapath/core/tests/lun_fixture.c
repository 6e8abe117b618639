/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "lun_fixture.h"

#include <fcntl.h>
#include <immintrin.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"

#define PATIENCE_MS 30000

bool lun_fixture_open(struct lun_fixture *f, uint32_t engine)
{
    struct cxl_lun_conf conf = {
        .logical_block_size = 512, .blocks = LUN_BLOCKS, .chunk_blocks = LUN_CHUNK, .engine = engine};
    int err;

    f->fd = memfd_create("lun", MFD_CLOEXEC);
    CHECK(f->fd >= 0);
    CHECK_EQ(ftruncate(f->fd, (off_t)LUN_BLOCKS * CXLFLASH_BLOCK), 0);
    conf.fd = f->fd;
    err = cxl_lun_new(&conf, &f->lun);
    CHECK(!err || engine == CBD_ENGINE_URING);
    if (err)
        close(f->fd);
    return !err;
}

void lun_fixture_close(struct lun_fixture *f)
{
    cxl_lun_free(f->lun);
    close(f->fd);
}

int area_file(uint64_t bytes)
{
    int fd = memfd_create("area", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    CHECK(fd >= 0);
    CHECK_EQ(ftruncate(fd, (off_t)bytes), 0);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
    return fd;
}

void app_open(struct lun_fixture *f, struct app *app, uint32_t slot, uint32_t depth, uint32_t read_only)
{
    uint64_t bytes = cxlflash_area_bytes(depth);
    struct cxl_lun_context_conf conf = {
        .user_fd = area_file(bytes), .master_fd = area_file(bytes), .depth = depth, .read_only = read_only};
    int bells[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, bells), 0);
    conf.bell_fd = bells[0];
    CHECK_EQ(cxl_lun_add(f->lun, slot, &conf), 0);
    *app = (struct app){.bytes = bytes, .depth = depth, .bell = bells[1]};
    app->user = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, conf.user_fd, 0);
    app->master = mmap(NULL, bytes, PROT_READ, MAP_SHARED, conf.master_fd, 0);
    CHECK(app->user != MAP_FAILED && app->master != MAP_FAILED);
    close(conf.user_fd);
    close(conf.master_fd);
    close(bells[0]);
}

void app_close(struct app *app)
{
    munmap(app->user, app->bytes);
    munmap((void *)(uintptr_t)app->master, app->bytes);
    close(app->bell);
}

static uint64_t slot_bytes(uint16_t tag)
{
    return (uint64_t)tag * CXLFLASH_TRANSFER_BLOCKS * CXLFLASH_BLOCK;
}

uint8_t *app_write_slot(const struct app *app, uint16_t tag)
{
    return app->user + cxlflash_data_off(app->depth) + slot_bytes(tag);
}

const uint8_t *app_read_slot(const struct app *app, uint16_t tag)
{
    return app->master + cxlflash_data_off(app->depth) + slot_bytes(tag);
}

void app_send(struct app *app, const struct cxlflash_command *cmd)
{
    struct cxlflash_command *slot = (void *)(app->user + cxlflash_slot_off(app->depth, app->sent + 1));
    const struct cxlflash_engine_line *line = (const void *)(app->master + CXLFLASH_LINE);

    memcpy((uint8_t *)slot + 8, (const uint8_t *)cmd + 8, sizeof(*cmd) - 8);
    __atomic_store_n(&slot->seq, ++app->sent, __ATOMIC_SEQ_CST);
    _mm_mfence();
    if (__atomic_load_n(&line->sleeping, __ATOMIC_RELAXED))
        CHECK_EQ(send(app->bell, "", 1, MSG_NOSIGNAL), 1);
}

struct cxlflash_response app_receive(struct app *app)
{
    const struct cxlflash_response *slot = (const void *)(app->master + cxlflash_slot_off(app->depth, app->got + 1));
    struct cxlflash_user_line *line = (void *)app->user;
    struct pollfd bell = {.fd = app->bell, .events = POLLIN};
    char bytes[64];

    __atomic_store_n(&line->sleeping, 1, __ATOMIC_RELAXED);
    _mm_mfence();
    while (__atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE) != app->got + 1) {
        CHECK_EQ(poll(&bell, 1, PATIENCE_MS), 1);
        CHECK(recv(app->bell, bytes, sizeof(bytes), MSG_DONTWAIT) > 0);
    }
    __atomic_store_n(&line->sleeping, 0, __ATOMIC_RELAXED);
    app->got++;
    return *slot;
}

int32_t app_ask(struct app *app, const struct cxlflash_command *cmd)
{
    struct cxlflash_response response;

    app_send(app, cmd);
    response = app_receive(app);
    CHECK_EQ(response.tag, cmd->tag);
    return response.result;
}

struct cxl_lun_stats lun_counters(const struct lun_fixture *f)
{
    struct cxl_lun_stats stats;

    cxl_lun_stats(f->lun, &stats);
    return stats;
}
