/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Every scenario of the simulator under every adversary that it must withstand, with few seeds: here the sanitizers look on. The whole
 * proof is datapath/tests/prove.
 */
#include <string.h>

#include "check.h"
#include "sim/scenarios.h"

#define SEEDS 3U

static void withstand(uint32_t index, const struct scenario *s, uint32_t adversary)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct sim_report report;

        CHECK_EQ(sim_run(index, adversary, seed, SIM_DROP_NONE, &report), 0);
        if (report.outcome == SIM_FAILED)
            fprintf(stderr, "%s, %s, seed %llu: %s\n", s->name, sim_adversary_name(adversary), (unsigned long long)seed,
                    report.why);
        CHECK(report.outcome != SIM_FAILED);
    }
}

int main(void)
{
    const struct scenario *s;
    struct sim_report report;

    for (uint32_t i = 0; (s = scenario_at(i)); i++) {
        TEST(s->name);
        for (uint32_t adversary = 0; !s->bad && adversary < SIM_ADVERSARIES; adversary++) {
            if (s->adversaries & 1U << adversary)
                withstand(i, s, adversary);
        }
    }
    CHECK(sim_run(1000, SIM_LAZY, 1, SIM_DROP_NONE, &report) < 0);
    CHECK(sim_run(0, SIM_ADVERSARIES, 1, SIM_DROP_NONE, &report) < 0);
    return 0;
}
