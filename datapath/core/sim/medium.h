/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The backing device of a simulation: bytes that several hosts reach, and an engine.h for handlers whose `device.fd` is the number
 * of their host.
 */
#ifndef CXL_SIM_MEDIUM_H
#define CXL_SIM_MEDIUM_H

#include <stdbool.h>
#include <stdint.h>

#include "sim.h"

#define MEDIUM_BLOCK 512U
#define MEDIUM_BLOCKS 24U
#define MEDIUM_BYTES (MEDIUM_BLOCK * MEDIUM_BLOCKS)

void medium_open(void);
const uint8_t *medium_bytes(void);
/* An actor of a host of its own: it performs what io_uring would, in any order. Ends after medium_end(). */
void medium_actor(void *unused);
void medium_end(void);
/* Whether something that a host handed over is still to happen. */
bool medium_busy(uint32_t host);
/* From now on it is a fault when something of this host reaches the medium. */
void medium_bar(uint32_t host);

#endif
