/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What it costs to wait for work, and how long work waits: a backend with many channels that nobody uses, and the first request
 * after a pause.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "cbd_format.h"
#include "idle.h"
#include "thread.h"
#include "world.h"

#define CAPACITY (1U << 20)
#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL
#define WINDOWS 20U
#define TIMEOUT_US 10000000U

static void serve(struct world *world, const void *arg)
{
    struct cbd_backend_conf conf = {.logical_block_size = 512, .capacity = CAPACITY, .idle.idle_cap_us = *(const uint32_t *)arg};

    conf.fd = world_file(CAPACITY);
    world_serve(world, &conf);
}

static void open_world(struct world *world, uint64_t coherence, uint64_t channels, uint64_t cap_us)
{
    struct cbd_channel_conf conf = {.ring_depth = 64, .slot_bytes = CBD_PAGE, .features = CBD_FEATURE_DATA_CRC};
    uint32_t cap = (uint32_t)cap_us;

    world_open(world, (uint32_t)coherence, (uint32_t)channels, &conf);
    world_start_peer(world, serve, &cap);
}

#define OPTION_COHERENCE \
    { \
        .name = "coherence", .help = "kind of memory; software flushes and invalidates", .kind = OPTION_CHOICE, \
        .choices = {"hardware", "software"} \
    }
#define OPTION_CHANNELS {.name = "channels", .help = "channels of the backend", .value = 1, .min = 1, .max = 64}
#define OPTION_CAP {.name = "idle-cap-us", .help = "longest sleep between two looks, 0: as shipped", .max = 1000000}

/* ---- idle ------------------------------------------------------------------------------------------------------------- */

enum { IDLE_COHERENCE, IDLE_CHANNELS, IDLE_CAP, IDLE_SETTLE, IDLE_SECONDS };

static struct option idle_options[] = {
    [IDLE_COHERENCE] = OPTION_COHERENCE,
    [IDLE_CHANNELS] = OPTION_CHANNELS,
    [IDLE_CAP] = OPTION_CAP,
    [IDLE_SETTLE] = {.name = "settle", .help = "idle time before the first sample", .kind = OPTION_SECONDS, .value = 100,
                     .min = 0, .max = 60000},
    [IDLE_SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 2000, .min = 100, .max = 60000},
    {0},
};

/* The least that anybody pays who looks as often as an idle backend: to sleep, and not even to look. */
static void nap(struct world *world, const void *arg)
{
    thread_wake_in_time();
    world_ready(world);
    for (;;)
        idle_sleep(*(const uint64_t *)arg);
}

static void start_napper(struct world *world)
{
    struct cbd_channel_conf unused = {.ring_depth = 2, .slot_bytes = CBD_PAGE};
    uint64_t cap_us = idle_options[IDLE_CAP].value, ns = 1000 * (cap_us ? cap_us : IDLE_CAP_US);

    world_open(world, CXL_COHERENCE_HARDWARE, 1, &unused);
    world_start_peer(world, nap, &ns);
}

static clockid_t clock_of(const struct world *world)
{
    clockid_t clock;

    if (clock_getcpuclockid(world->peer, &clock))
        bench_fail("cannot read the CPU time of a process");
    return clock;
}

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static double percent_of_window(double ns)
{
    return ns * 100 / ((double)(idle_options[IDLE_SECONDS].value * NS_PER_MS) / WINDOWS);
}

static void run_idle(const struct command *command)
{
    uint64_t window = idle_options[IDLE_SECONDS].value * NS_PER_MS / WINDOWS;
    static struct samples samples, naps;
    struct world world, napper;
    clockid_t clock, nap_clock;
    char more[64];

    open_world(&world, idle_options[IDLE_COHERENCE].value, idle_options[IDLE_CHANNELS].value, idle_options[IDLE_CAP].value);
    start_napper(&napper);
    clock = clock_of(&world);
    nap_clock = clock_of(&napper);
    idle_sleep(idle_options[IDLE_SETTLE].value * NS_PER_MS);
    for (uint32_t i = 0; i < WINDOWS; i++) {
        uint64_t used = cpu_ns(clock), napped = cpu_ns(nap_clock), start = idle_now_ns(), slept;

        idle_sleep(window);
        used = cpu_ns(clock) - used;
        napped = cpu_ns(nap_clock) - napped;
        slept = idle_now_ns() - start;
        samples_add(&samples, used * window / slept);
        samples_add(&naps, napped * window / slept);
    }
    world_stop_peer(&napper);
    world_stop_peer(&world);
    snprintf(more, sizeof(more), ", \"limit\": %.6g", percent_of_window(samples_percentile(&naps, 50)));
    bench_report(command, "% of a core", &samples, percent_of_window, more);
}

const struct command command_idle = {
    "idle", "CPU time of a backend whose channels nobody uses, in windows of a 20th", idle_options, run_idle};

/* ---- wake-up ---------------------------------------------------------------------------------------------------------- */

enum { WAKE_COHERENCE, WAKE_CHANNELS, WAKE_CAP, WAKE_PAUSE, WAKE_SECONDS };

static struct option wake_options[] = {
    [WAKE_COHERENCE] = OPTION_COHERENCE,
    [WAKE_CHANNELS] = OPTION_CHANNELS,
    [WAKE_CAP] = OPTION_CAP,
    [WAKE_PAUSE] = {.name = "pause", .help = "idle time before each request, up to a quarter longer by chance",
                    .kind = OPTION_SECONDS, .value = 20, .min = 1, .max = 10000},
    [WAKE_SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 2000, .min = 100, .max = 600000},
    {0},
};

/* Not in step with the sleeps of the backend. */
static void sleep_a_while(uint64_t *random)
{
    uint64_t pause = wake_options[WAKE_PAUSE].value * NS_PER_MS;

    *random = *random * 6364136223846793005ULL + 1442695040888963407ULL;
    idle_sleep(pause + (*random >> 33) % (pause / 4));
}

static uint64_t one_read(struct cbd_queue *queue, void *buffer)
{
    uint64_t start = idle_now_ns();
    struct cbd_completion done;

    if (cbd_queue_submit(queue, CBD_READ, 0, 0, CBD_PAGE, buffer, 0))
        bench_fail("a request was refused");
    if (cbd_queue_wait(queue, &done, 1, TIMEOUT_US) != 1 || done.result)
        bench_fail("a request failed");
    return idle_now_ns() - start;
}

static double microseconds(double ns)
{
    return ns / 1000;
}

static void run_wakeup(const struct command *command)
{
    static uint8_t buffer[CBD_PAGE];
    static struct samples samples;
    struct cbd_queue *queue;
    struct world world;
    uint64_t random = 1;

    open_world(&world, wake_options[WAKE_COHERENCE].value, wake_options[WAKE_CHANNELS].value, wake_options[WAKE_CAP].value);
    if (cbd_queue_new(&world.mem, &world.channels[world.count - 1], &queue))
        bench_fail("cannot start the queue");
    for (uint64_t end = idle_now_ns() + wake_options[WAKE_SECONDS].value * NS_PER_MS; idle_now_ns() < end;) {
        sleep_a_while(&random);
        samples_add(&samples, one_read(queue, buffer));
    }
    world_stop_peer(&world);
    bench_report(command, "us", &samples, microseconds, "");
}

const struct command command_wakeup = {
    "wakeup", "latency of the first 4 KiB read after a pause", wake_options, run_wakeup};
