/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A LUN on a temporary file, and applications whose areas the test writes by hand.
 */
#ifndef CXL_LUN_FIXTURE_H
#define CXL_LUN_FIXTURE_H

#include <stdbool.h>

#include "cxl_lun.h"
#include "cxlflash_format.h"

#define LUN_BLOCKS 4096U
#define LUN_CHUNK 64U /* blocks */

struct app {
    uint8_t *user;
    const uint8_t *master;
    uint64_t bytes;
    uint32_t depth;
    int bell;
    uint64_t sent, got;
};

struct lun_fixture {
    int fd;
    struct cxl_lun *lun;
};

/* Whether the kernel has the engine. */
bool lun_fixture_open(struct lun_fixture *f, uint32_t engine);
void lun_fixture_close(struct lun_fixture *f);
void app_open(struct lun_fixture *f, struct app *app, uint32_t slot, uint32_t depth, uint32_t read_only);
void app_close(struct app *app);

/* A sealed memory file. */
int area_file(uint64_t bytes);
uint8_t *app_write_slot(const struct app *app, uint16_t tag);
const uint8_t *app_read_slot(const struct app *app, uint16_t tag);
/* Writes the slot as it is, but for its seq. */
void app_send(struct app *app, const struct cxlflash_command *cmd);
/* Waits for the next response. */
struct cxlflash_response app_receive(struct app *app);
/* Both. */
int32_t app_ask(struct app *app, const struct cxlflash_command *cmd);
struct cxl_lun_stats lun_counters(const struct lun_fixture *f);

#endif
