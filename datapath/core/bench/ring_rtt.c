/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One submission entry out and one completion entry back through the rings of a channel, without a device, between two processes.
 */
#include "bench.h"
#include "channel.h"
#include "idle.h"
#include "ring.h"
#include "world.h"

#define BATCH 64U /* rounds per sample */

enum { COHERENCE, PIN, SECONDS };

static struct option options[] = {
    [COHERENCE] = {.name = "coherence", .help = "kind of memory; software flushes and invalidates", .kind = OPTION_CHOICE,
                   .choices = {"hardware", "software"}},
    [PIN] = {.name = "pin", .help = "each process on CPUs of its own", .kind = OPTION_CHOICE, .choices = {"no", "yes"}, .value = 1},
    [SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 1000, .min = 10, .max = 60000},
    {0},
};

struct ends {
    struct channel ch;
    struct ring submissions, completions;
};

static void ends_init(struct ends *ends, const struct world *world)
{
    if (channel_init(&ends->ch, &world->mem, &world->channels[0]))
        bench_fail("the channel is not usable");
    ring_init(&ends->submissions, &ends->ch.map, ends->ch.submissions, ends->ch.conf.ring_depth, ends->ch.conf.epoch);
    ring_init(&ends->completions, &ends->ch.map, ends->ch.completions, ends->ch.conf.ring_depth, ends->ch.conf.epoch);
}

static void await_slot(struct ring *ring, struct cbd_slot *slot)
{
    uint64_t rereads = 0;

    while (ring_consume(ring, slot, &rereads) != RING_SLOT)
        ;
}

static void answer_all(struct world *world, const void *arg)
{
    struct cbd_slot slot;
    struct ends ends;

    (void)arg;
    ends_init(&ends, world);
    if (options[PIN].value)
        world_pin(1);
    world_ready(world);
    for (;;) {
        await_slot(&ends.submissions, &slot);
        ring_produce(&ends.completions, &slot);
    }
}

static double per_round(double ns)
{
    return ns / BATCH;
}

static void run(const struct command *command)
{
    struct cbd_channel_conf conf = {.ring_depth = 64, .slot_bytes = 4096};
    static struct samples samples;
    struct world world;
    struct ends ends;

    world_open(&world, (uint32_t)options[COHERENCE].value, 1, &conf);
    ends_init(&ends, &world);
    world_start_peer(&world, answer_all, NULL);
    if (options[PIN].value)
        world_pin(0);
    uint64_t before = idle_now_ns(), end = before + options[SECONDS].value * 1000000;
    while (before < end) {
        for (uint32_t n = 0; n < BATCH; n++) {
            struct cbd_slot slot = {.op = CBD_READ, .tid = ends.submissions.seq + 1, .len = 4096};

            ring_produce(&ends.submissions, &slot);
            await_slot(&ends.completions, &slot);
        }
        uint64_t now = idle_now_ns();

        samples_add(&samples, now - before);
        before = now;
    }
    world_stop_peer(&world);
    bench_report(command, "ns", &samples, per_round, "");
}

const struct command command_ring_rtt = {
    "ring-rtt", "one entry out and one back between two processes, no device, mean of 64", options, run};
