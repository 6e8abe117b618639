/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * One submission entry out and one completion entry back through the rings of a channel, without a device, between two processes; and
 * in turns with it, by the same two on the same two CPUs, a bare line out and one back. How far the CPUs of a virtual machine are from
 * each other changes within seconds, and with it both figures by a factor of four: only what was taken together can be compared.
 */
#include <stdio.h>

#include "bench.h"
#include "channel.h"
#include "idle.h"
#include "line.h"
#include "ring.h"
#include "world.h"

#define BATCH 64U   /* rounds per sample */
#define SLICE 128U /* rounds until it is the other's turn; both sides count them */

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
    struct court court;
    uint64_t lines; /* sent */
};

static void ends_init(struct ends *ends, const struct world *world)
{
    if (channel_init(&ends->ch, &world->mem, &world->channels[0]))
        bench_fail("the channel is not usable");
    ring_init(&ends->submissions, &ends->ch.map, ends->ch.submissions, ends->ch.conf.ring_depth, ends->ch.conf.epoch);
    ring_init(&ends->completions, &ends->ch.map, ends->ch.completions, ends->ch.conf.ring_depth, ends->ch.conf.epoch);
    /* The data slots are not used here. */
    ends->court = (struct court){.map = ends->ch.map, .mine = ends->ch.requests, .theirs = ends->ch.responses};
    ends->lines = 0;
}

static void await_slot(struct ring *ring, struct cbd_slot *slot)
{
    uint64_t rereads = 0;

    while (ring_consume(ring, slot, &rereads) != RING_SLOT)
        ;
}

static void answer_all(struct world *world, const void *arg)
{
    struct court court;
    struct cbd_slot slot;
    struct ends ends;

    (void)arg;
    ends_init(&ends, world);
    court = line_other_side(&ends.court);
    if (options[PIN].value)
        world_pin(1);
    world_ready(world);
    for (;;) {
        for (uint32_t n = 0; n < SLICE; n++) {
            await_slot(&ends.submissions, &slot);
            ring_produce(&ends.completions, &slot);
        }
        for (uint32_t n = 0; n < SLICE; n++) {
            uint64_t next = ++ends.lines;

            line_await(&court, next);
            line_send(&court, next);
        }
    }
}

static void ring_round(struct ends *ends)
{
    struct cbd_slot slot = {.op = CBD_READ, .tid = ends->submissions.seq + 1, .len = 4096};

    ring_produce(&ends->submissions, &slot);
    await_slot(&ends->completions, &slot);
}

static void line_round(struct ends *ends)
{
    const struct court court = ends->court;
    uint64_t next = ++ends->lines;

    line_send(&court, next);
    line_await(&court, next);
}

/* Returns the time. Inline, so that a line does not pay for a call. */
static inline __attribute__((always_inline)) uint64_t slice(struct ends *ends, void (*round)(struct ends *), struct samples *samples)
{
    uint64_t before = idle_now_ns(), now = before;

    for (uint32_t done = 0; done < SLICE; done += BATCH, before = now) {
        for (uint32_t n = 0; n < BATCH; n++)
            round(ends);
        now = idle_now_ns();
        samples_add(samples, now - before);
    }
    return now;
}

static double per_round(double ns)
{
    return ns / BATCH;
}

static void run(const struct command *command)
{
    struct cbd_channel_conf conf = {.ring_depth = 64, .slot_bytes = 4096};
    static struct samples rings, lines;
    struct world world;
    struct ends ends;
    char more[64];

    world_open(&world, (uint32_t)options[COHERENCE].value, 1, &conf);
    ends_init(&ends, &world);
    world_start_peer(&world, answer_all, NULL);
    if (options[PIN].value)
        world_pin(0);
    uint64_t end = idle_now_ns() + options[SECONDS].value * 1000000;
    do
        slice(&ends, ring_round, &rings);
    while (slice(&ends, line_round, &lines) < end);
    world_stop_peer(&world);
    snprintf(more, sizeof(more), ", \"limit\": %.6g", per_round(samples_percentile(&lines, 50)));
    bench_report(command, "ns", &rings, per_round, more);
}

const struct command command_ring_rtt = {
    "ring-rtt", "one entry out and one back between two processes, no device, mean of 64; its limit is a line each way", options, run};
