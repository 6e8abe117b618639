/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "lun_context.h"

#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS (CXLFLASH_LINE / sizeof(uint64_t))
#define SLOT_BYTES ((uint64_t)CXLFLASH_TRANSFER_BLOCKS * CXLFLASH_BLOCK)

/* ---- life ------------------------------------------------------------------------------------------------------------- */

/* A file that could shrink under us would end the process of everybody. */
static int map_area(int fd, uint64_t bytes, int protection, uint8_t **out)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    void *at;

    if (seals < 0 || fstat(fd, &st))
        return -errno;
    if (!(seals & F_SEAL_SHRINK) || (uint64_t)st.st_size != bytes)
        return -EINVAL;
    at = mmap(NULL, bytes, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return -errno;
    *out = at;
    return 0;
}

static int open_areas(struct lun_context *c, const struct cxl_lun_context_conf *conf)
{
    uint8_t *user = NULL;
    int err = map_area(conf->user_fd, c->area_bytes, PROT_READ, &user);

    c->user = user;
    if (!err)
        err = map_area(conf->master_fd, c->area_bytes, PROT_READ | PROT_WRITE, &c->master);
    if (!err && (c->bell = fcntl(conf->bell_fd, F_DUPFD_CLOEXEC, 0)) < 0)
        err = -errno;
    return err;
}

int lun_context_new(const struct cxl_lun_context_conf *conf, struct lun_context **out)
{
    uint32_t depth = conf->depth;
    struct lun_context *c;
    int err;

    if (depth < CXLFLASH_DEPTH_MIN || depth > CXLFLASH_DEPTH_MAX || depth & (depth - 1))
        return -EINVAL;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->depth = depth;
    c->area_bytes = cxlflash_area_bytes(depth);
    c->read_only = conf->read_only;
    c->bell = -1;
    err = open_areas(c, conf);
    if (err) {
        lun_context_free(c);
        return err;
    }
    *out = c;
    return 0;
}

void lun_context_free(struct lun_context *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < CXLFLASH_HANDLES_MAX; i++)
        free(c->handles[i].chunks);
    if (c->user)
        munmap((void *)(uintptr_t)c->user, c->area_bytes);
    if (c->master)
        munmap(c->master, c->area_bytes);
    if (c->bell >= 0)
        close(c->bell);
    free(c);
}

/* ---- commands --------------------------------------------------------------------------------------------------------- */

static const uint64_t *next_slot(const struct lun_context *c)
{
    return (const uint64_t *)(const void *)(c->user + cxlflash_slot_off(c->depth, c->taken + 1));
}

bool lun_context_waiting(const struct lun_context *c)
{
    return __atomic_load_n(next_slot(c), __ATOMIC_ACQUIRE) == c->taken + 1;
}

/* Each word is loaded once: what is checked is what is used, whatever the application does to the slot meanwhile. */
bool lun_context_take(struct lun_context *c, struct cxlflash_command *out)
{
    const uint64_t *slot = next_slot(c);
    uint64_t words[WORDS];

    if (!lun_context_waiting(c))
        return false;
    for (size_t i = 0; i < WORDS; i++)
        words[i] = __atomic_load_n(slot + i, __ATOMIC_RELAXED);
    memcpy(out, words, sizeof(*out));
    c->taken++;
    return true;
}

static bool tag_busy(const struct lun_context *c, uint16_t tag)
{
    return c->busy[tag / 64] >> (tag % 64) & 1;
}

static bool reserved_clear(const struct cxlflash_command *cmd)
{
    return !(cmd->flags | cmd->zero | cmd->reserved[0] | cmd->reserved[1] | cmd->reserved[2] | cmd->reserved[3]);
}

static int check_range(const struct lun_handle *h, const struct cxlflash_command *cmd)
{
    uint32_t most = cmd->op == CXLFLASH_UNMAP ? CXLFLASH_UNMAP_BLOCKS : CXLFLASH_TRANSFER_BLOCKS;

    if (cmd->op == CXLFLASH_SYNC)
        return cmd->lba || cmd->blocks ? -EINVAL : 0;
    if (!cmd->blocks || cmd->blocks > most)
        return -EINVAL;
    return cmd->lba <= h->blocks && cmd->blocks <= h->blocks - cmd->lba ? 0 : -ERANGE;
}

int lun_context_check(const struct lun_context *c, const struct cxlflash_command *cmd)
{
    const struct lun_handle *h;

    if (cmd->op < CXLFLASH_READ || cmd->op > CXLFLASH_SYNC || !reserved_clear(cmd))
        return -EINVAL;
    if (cmd->tag >= c->depth || tag_busy(c, cmd->tag))
        return -EINVAL;
    if (cmd->handle >= CXLFLASH_HANDLES_MAX || !c->handles[cmd->handle].open)
        return -EBADF;
    h = &c->handles[cmd->handle];
    if (c->read_only && (cmd->op == CXLFLASH_WRITE || cmd->op == CXLFLASH_UNMAP))
        return -EROFS;
    return check_range(h, cmd);
}

void lun_context_begin(struct lun_context *c, const struct cxlflash_command *cmd)
{
    c->busy[cmd->tag / 64] |= 1ULL << (cmd->tag % 64);
}

/* ---- responses -------------------------------------------------------------------------------------------------------- */

/* The flag of the sleeper and the slot are stored and loaded crosswise: without the full fence both sides could miss each other. */
static void ring_bell(const struct lun_context *c)
{
    const struct cxlflash_user_line *line = (const void *)c->user;

    _mm_mfence();
    if (__atomic_load_n(&line->sleeping, __ATOMIC_RELAXED))
        send(c->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL); /* a full buffer means that it has been rung */
}

void lun_context_answer(struct lun_context *c, uint16_t tag, bool begun, int32_t result)
{
    struct cxlflash_response *slot = (void *)(c->master + cxlflash_slot_off(c->depth, c->sent + 1));

    if (begun)
        c->busy[tag / 64] &= ~(1ULL << (tag % 64));
    slot->tag = tag;
    slot->result = result;
    __atomic_store_n(&slot->seq, ++c->sent, __ATOMIC_RELEASE);
    ring_bell(c);
}

/* ---- places ----------------------------------------------------------------------------------------------------------- */

uint64_t lun_handle_translate(const struct lun_handle *h, uint64_t chunk_bytes, uint64_t at, uint64_t len, uint64_t *together)
{
    uint64_t inside = at % chunk_bytes;

    if (h->direct) {
        *together = len;
        return at;
    }
    *together = len < chunk_bytes - inside ? len : chunk_bytes - inside;
    return h->chunks[at / chunk_bytes] * chunk_bytes + inside;
}

const uint8_t *lun_context_write_slot(const struct lun_context *c, uint16_t tag)
{
    return c->user + cxlflash_data_off(c->depth) + tag * SLOT_BYTES;
}

uint8_t *lun_context_read_slot(const struct lun_context *c, uint16_t tag)
{
    return c->master + cxlflash_data_off(c->depth) + tag * SLOT_BYTES;
}

void lun_context_say_sleeping(const struct lun_context *c, bool sleeping)
{
    struct cxlflash_engine_line *line = (void *)(c->master + sizeof(struct cxlflash_status_line));

    __atomic_store_n(&line->sleeping, sleeping, __ATOMIC_RELAXED);
}

void lun_context_say_error(const struct lun_context *c)
{
    struct cxlflash_status_line *line = (void *)c->master;

    __atomic_store_n(&line->status, CXLFLASH_ERROR, __ATOMIC_RELEASE);
    send(c->bell, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}
