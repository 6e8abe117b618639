/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A ublk device on the fixture, for tests on the real driver: root, and a kernel whose ublk_drv is loaded (6.5 or newer).
 */
#ifndef CXL_TESTS_UBLK_DEVICE_H
#define CXL_TESTS_UBLK_DEVICE_H

#include "fixture.h"

#define PHYSICAL 8192U
#define GRANULARITY 16384U

/* Ends the program as skipped where there is no driver. */
void need_ublk(void);
struct cbd_ublk_conf ublk_conf(int dev_id);

/* Handlers on rings that nobody used before; the queues change places, too. */
void next_epoch(struct fixture *f);
void silence_backend(struct fixture *f);
/* On fresh rings. */
struct cbd_ublk *start_ublk(struct fixture *f, const struct cbd_ublk_conf *conf);
/* A descriptor, or -1. */
int open_device(int dev_id, int flags);

#endif
