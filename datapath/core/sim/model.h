/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The memory and the caches, for the rest of the simulator.
 */
#ifndef CXL_SIM_MODEL_H
#define CXL_SIM_MODEL_H

#include "sim.h"

#define WORD 8U /* what a CPU moves in one piece when it is aligned */

void model_open(const struct sim_conf *conf);
void model_close(void);
/* Whose mapping it is, or a part of it, and where that begins in the memory. */
uint32_t model_host_of(const uint8_t *base);
uint64_t model_offset_of(const uint8_t *base);

/* Plain bytes for mem_window(), which stay where they are. */
uint8_t *model_window(uint32_t host, uint64_t off);

/* What a host does, one or more steps each. A load or store is inside of one aligned word. */
void model_load(uint32_t host, uint64_t off, uint8_t *dst, uint32_t len);
void model_store(uint32_t host, uint64_t off, const uint8_t *src, uint32_t len);
void model_flush(uint32_t host, const char *what, uint64_t off, uint64_t len, bool invalidates);
void model_fence(uint32_t host, const char *what);

/* A CPU with nothing to store empties its store buffer, and at the end of a thread it has certainly done so. */
void model_rest(uint32_t host, bool ended);

/* Moves of an adversary. */
void model_evict_some(void);
void model_prefetch_some(void);
void model_drain_some(void);
void model_tear_on(void);
/* The power-off of a host: any words of any line that it had changed arrive, and its cache is gone. */
void model_lose(uint32_t host);

#endif
