/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One context of a LUN as its engine sees it: the areas that it shares with an application, and the handles by which that may
 * reach blocks of the LUN. Whatever the application writes is copied once and checked here.
 */
#ifndef CXL_LUN_CONTEXT_H
#define CXL_LUN_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "cxl_lun.h"
#include "cxlflash_format.h"

/* Which blocks of the LUN a handle reaches: all in their order, or those of its chunks. */
struct lun_handle {
    bool open;
    bool direct;
    uint64_t blocks;
    uint32_t *chunks; /* (blocks + chunk_blocks - 1) / chunk_blocks of them */
};

struct lun_context {
    const uint8_t *user; /* read-only here */
    uint8_t *master;     /* read-only there */
    uint64_t area_bytes;
    int bell;
    uint32_t depth;
    bool read_only;
    bool gone;      /* the application closed its end */
    uint64_t taken; /* last command */
    uint64_t sent;  /* last response */
    uint64_t busy[CXLFLASH_DEPTH_MAX / 64]; /* tags in flight */
    struct lun_handle handles[CXLFLASH_HANDLES_MAX];
};

/* The descriptors stay the caller's but for the bell, which is duplicated. */
int lun_context_new(const struct cxl_lun_context_conf *conf, struct lun_context **out);
void lun_context_free(struct lun_context *c);

/* Whether a command is there. */
bool lun_context_waiting(const struct lun_context *c);
/* Takes a private copy of the next command, if there is one. */
bool lun_context_take(struct lun_context *c, struct cxlflash_command *out);
/* 0 or why it cannot be done. */
int lun_context_check(const struct lun_context *c, const struct cxlflash_command *cmd);
/* For a command that passed the check: its tag is in flight until it is answered. */
void lun_context_begin(struct lun_context *c, const struct cxlflash_command *cmd);
/* Answers; `begun`: the tag was in flight. Rings when the application sleeps. */
void lun_context_answer(struct lun_context *c, uint16_t tag, bool begun, int32_t result);

/* Where in the LUN the byte `at` of a handle is, and how many of the `len` bytes from there on lie together. at + len is inside the
 * handle. */
uint64_t lun_handle_translate(const struct lun_handle *h, uint64_t chunk_bytes, uint64_t at, uint64_t len, uint64_t *together);

const uint8_t *lun_context_write_slot(const struct lun_context *c, uint16_t tag);
uint8_t *lun_context_read_slot(const struct lun_context *c, uint16_t tag);

/* What the engine says about itself: whether it waits for the bell. */
void lun_context_say_sleeping(const struct lun_context *c, bool sleeping);
/* The application finds all ones from now on. */
void lun_context_say_error(const struct lun_context *c);

#endif
