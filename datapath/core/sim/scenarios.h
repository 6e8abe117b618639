/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The scenarios in C; those in Python are datapath/tests/prove. To add one, write its function and its line in scenarios.c.
 */
#ifndef CXL_SIM_SCENARIOS_H
#define CXL_SIM_SCENARIOS_H

#include "sim.h"

#define SIM_ALL ((1U << SIM_ADVERSARIES) - 1)
#define SIM_BUT(adversary) (SIM_ALL & ~(1U << (adversary)))

struct scenario {
    const char *name;
    void (*run)(uint32_t variant); /* makes actors, lets them go, checks, frees */
    uint32_t variant;
    uint32_t hosts;
    uint64_t bytes;
    uint32_t adversaries; /* a bit for each that it must withstand */
    bool bad;             /* a known-bad model: some adversary must break it */
};

enum { RING_CRC = 1 };
void scenario_ring(uint32_t variant);

enum { CHANNEL_CRC = 1 };
void scenario_channel(uint32_t variant);
void scenario_takeover(uint32_t variant);
void scenario_successor(uint32_t variant);

enum { PAGES_MOVE = 1 };
void scenario_pages(uint32_t variant);

/* The ring of the RFC, with some of its defects. */
enum { RFC_NO_FLUSH = 1, RFC_COMPLETION_STAYS = 2, RFC_SHARED_LINE = 4 };
void scenario_rfc(uint32_t defects);

/* NULL: there is none. */
const struct scenario *scenario_at(uint32_t index);
/* Whatever the drop, the outcome goes to *report. -ENOENT when there is no such scenario. */
int sim_run(uint32_t scenario, uint32_t adversary, uint64_t seed, int32_t drop, struct sim_report *report);

#endif
