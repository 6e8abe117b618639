/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How the steps of requests reach the device: on the thread of the handler, or many at once by io_uring. Nothing reaches it before
 * engine_submit(). A handler has one engine and calls it from its thread only (new and free apart).
 */
#ifndef CXL_ENGINE_H
#define CXL_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "cxl_core.h"
#include "device.h"

struct engine;

struct ended {
    uint32_t tag;
    int32_t result; /* as of device_perform() */
};

/* The engine for what was asked for. Where the kernel refuses io_uring, CBD_ENGINE_URING gives its errno, CBD_ENGINE_AUTO the other
 * engine. */
int engine_choose(enum cbd_engine wanted, enum cbd_engine *out);
/* dev outlives the engine; depth: tags. */
int engine_new(const struct device *dev, enum cbd_engine kind, uint32_t depth, struct engine **out);
/* Whether it takes another request beside those in flight. */
bool engine_has_room(const struct engine *e, uint32_t in_flight);
/* One step at a time per tag. */
void engine_start(struct engine *e, uint32_t tag, const struct step *step);
/* Performs what was started, or hands it to io_uring; what that does not take now stays for the next call. */
void engine_submit(struct engine *e);
/* Whether there is something for engine_submit(). */
bool engine_unsubmitted(const struct engine *e);
/* Takes up to max steps that ended, without waiting; returns their number. */
uint32_t engine_reap(struct engine *e, struct ended *out, uint32_t max);
/* Sleeps for ns, or until a step ends. */
void engine_wait(struct engine *e, uint64_t ns);
/* Calls off what the device has not begun, and returns when nothing is in flight. */
void engine_abandon(struct engine *e);
/* Nothing may be in flight. */
void engine_free(struct engine *e);

#endif
