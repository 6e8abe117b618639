/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "scenarios.h"

#include <errno.h>
#include <string.h>

#define KIB 1024U
#define PAGE (4 * KIB)
#define CHANNEL_BYTES (44 * KIB) /* depth 4, slots of 4 KiB */

static const struct scenario scenarios[] = {
    {"ring", scenario_ring, 0, 2, CHANNEL_BYTES, SIM_BUT(SIM_CLEAN) & SIM_BUT(SIM_CRASH), false},
    {"ring-crc", scenario_ring, RING_CRC, 2, CHANNEL_BYTES, SIM_BUT(SIM_CRASH), false},
    {"channel", scenario_channel, 0, 3, CHANNEL_BYTES, SIM_BUT(SIM_CLEAN) & SIM_BUT(SIM_CRASH), false},
    {"channel-crc", scenario_channel, CHANNEL_CRC, 3, CHANNEL_BYTES, SIM_BUT(SIM_CRASH), false},
    {"takeover", scenario_takeover, CHANNEL_CRC, 5, 4 * KIB + 2 * CHANNEL_BYTES, SIM_BUT(SIM_CLEAN), false},
    {"successor", scenario_successor, CHANNEL_CRC, 4, CHANNEL_BYTES, SIM_BUT(SIM_CLEAN), false},
    {"pages", scenario_pages, 0, 2, 20 * PAGE, SIM_BUT(SIM_CLEAN), false},
    {"pages-move", scenario_pages, PAGES_MOVE, 2, 20 * PAGE, SIM_BUT(SIM_CLEAN), false},
    {"rfc-no-flush", scenario_rfc, RFC_NO_FLUSH, 2, 8 * KIB, SIM_ALL, true},
    {"rfc-completion-stays", scenario_rfc, RFC_COMPLETION_STAYS, 2, 8 * KIB, SIM_ALL, true},
    {"rfc-shared-line", scenario_rfc, RFC_SHARED_LINE, 2, 8 * KIB, SIM_ALL, true},
    {"rfc-repaired", scenario_rfc, 0, 2, 8 * KIB, SIM_BUT(SIM_CLEAN) & SIM_BUT(SIM_CRASH), false},
    {"ring-clean-without-crc", scenario_ring, 0, 2, CHANNEL_BYTES, 1U << SIM_CLEAN, true},
};

const struct scenario *scenario_at(uint32_t index)
{
    return index < sizeof(scenarios) / sizeof(scenarios[0]) ? &scenarios[index] : NULL;
}

int sim_run(uint32_t scenario, uint32_t adversary, uint64_t seed, int32_t drop, struct sim_report *report)
{
    const struct scenario *s = scenario_at(scenario);

    if (!s || adversary >= SIM_ADVERSARIES)
        return -ENOENT;
    sim_open(&(struct sim_conf){.adversary = adversary, .hosts = s->hosts, .bytes = s->bytes, .seed = seed, .drop = drop});
    s->run(s->variant);
    sim_close(report);
    return 0;
}
