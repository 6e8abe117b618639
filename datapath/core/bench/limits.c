/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the memory allows, whatever a program does with it: copies, and one cache line to the other process and one back.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "idle.h"
#include "line.h"
#include "world.h"

#define BATCH 64U /* rounds per sample: reading the clock takes about as long as one */

/* ---- memcpy ----------------------------------------------------------------------------------------------------------- */

enum { COPY_BLOCK, COPY_SPAN, COPY_TO, COPY_SECONDS };

static struct option copy_options[] = {
    [COPY_BLOCK] = {.name = "block", .help = "bytes of one copy", .value = 1048576, .min = 64, .max = 16777216},
    [COPY_SPAN] = {.name = "span", .help = "bytes of shared memory that the copies go through", .value = 67108864,
                   .min = 16777216, .max = 1073741824},
    [COPY_TO] = {.name = "to", .help = "direction, private memory is one block", .kind = OPTION_CHOICE,
                 .choices = {"private", "shared"}},
    [COPY_SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 1000, .min = 10, .max = 60000},
    {0},
};

static double gigabytes_per_s(double ns)
{
    return (double)copy_options[COPY_BLOCK].value / ns;
}

static void run_memcpy(const struct command *command)
{
    uint64_t block = copy_options[COPY_BLOCK].value, span = copy_options[COPY_SPAN].value;
    uint8_t *shared = world_memory(span), *mine = aligned_alloc(4096, (block + 4095) / 4096 * 4096);
    static struct samples samples;

    memset(mine, 1, block);
    memset(shared, 1, span);
    uint64_t before = idle_now_ns(), end = before + copy_options[COPY_SECONDS].value * 1000000;
    for (uint64_t at = 0; before < end; at = at + 2 * block <= span ? at + block : 0) {
        if (copy_options[COPY_TO].value)
            memcpy(shared + at, mine, block);
        else
            memcpy(mine, shared + at, block);
        __asm__ volatile("" : : "r"(mine), "r"(shared) : "memory"); /* nobody reads what was copied */

        uint64_t now = idle_now_ns();

        samples_add(&samples, now - before);
        before = now;
    }
    bench_report(command, "GB/s", &samples, gigabytes_per_s, "");
}

const struct command command_memcpy = {
    "memcpy", "the C library's memcpy between shared memory and a private block", copy_options, run_memcpy};

/* ---- ping-pong -------------------------------------------------------------------------------------------------------- */

enum { PING_COHERENCE, PING_PIN, PING_SECONDS };

static struct option ping_options[] = {
    [PING_COHERENCE] = {.name = "coherence", .help = "kind of memory; software flushes and invalidates", .kind = OPTION_CHOICE,
                        .choices = {"hardware", "software"}},
    [PING_PIN] = {.name = "pin", .help = "each process on CPUs of its own", .kind = OPTION_CHOICE,
                        .choices = {"no", "yes"}, .value = 1},
    [PING_SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 1000, .min = 10, .max = 60000},
    {0},
};

static void return_lines(struct world *world, const void *arg)
{
    struct court court = line_other_side(arg);

    if (ping_options[PING_PIN].value)
        world_pin(1);
    world_ready(world);
    for (uint64_t i = 1;; i++) {
        line_await(&court, i);
        line_send(&court, i);
    }
}

static double per_round(double ns)
{
    return ns / BATCH;
}

static void run_pingpong(const struct command *command)
{
    struct cbd_channel_conf conf = {.ring_depth = 2, .slot_bytes = 4096};
    static struct samples samples;
    struct court court;
    struct world world;

    world_open(&world, (uint32_t)ping_options[PING_COHERENCE].value, 1, &conf);
    if (mem_map_init(&court.map, &world.mem))
        bench_fail("no such memory");
    court.mine = world.channels[0].channel_off;
    court.theirs = court.mine + 2048;
    world_start_peer(&world, return_lines, &court);
    if (ping_options[PING_PIN].value)
        world_pin(0);
    uint64_t before = idle_now_ns(), end = before + ping_options[PING_SECONDS].value * 1000000;
    for (uint64_t i = 1; before < end;) {
        for (uint32_t n = 0; n < BATCH; n++, i++) {
            line_send(&court, i);
            line_await(&court, i);
        }
        uint64_t now = idle_now_ns();

        samples_add(&samples, now - before);
        before = now;
    }
    world_stop_peer(&world);
    bench_report(command, "ns", &samples, per_round, "");
}

const struct command command_pingpong = {
    "pingpong", "round trip of one cache line between two processes, mean of 64", ping_options, run_pingpong};
