/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The public API end to end: queues in this process, one thread each, the backend in another.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "cbd_format.h"
#include "idle.h"
#include "world.h"

#define MAX_DEPTH 1024U
#define READS_OF_MIX 70U /* per cent */
#define TIMEOUT_US 10000000U
#define NS_PER_MS 1000000ULL

enum { OP, BS, QD, QUEUES, SECONDS, DATA_CRC, COHERENCE, DEVICE, ENGINE, SPAN, PIN };

static struct option options[] = {
    [OP] = {.name = "op", .help = "mix: 70 reads and 30 writes of 100", .kind = OPTION_CHOICE,
            .choices = {"read", "write", "mix"}},
    [BS] = {.name = "bs", .help = "bytes of one request", .value = 4096, .min = 512, .max = 1048576},
    [QD] = {.name = "qd", .help = "requests in flight of one queue", .value = 1, .min = 1, .max = MAX_DEPTH},
    [QUEUES] = {.name = "queues", .help = "queues, a thread each", .value = 1, .min = 1, .max = 16},
    [SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 1000, .min = 10, .max = 60000},
    [DATA_CRC] = {.name = "data-crc", .help = "payload checksums", .value = 1, .min = 0, .max = 1},
    [COHERENCE] = {.name = "coherence", .help = "kind of memory; software flushes and invalidates", .kind = OPTION_CHOICE,
                   .choices = {"hardware", "software"}},
    [DEVICE] = {.name = "device", .help = "a file beside the transport, or nothing at all (/dev/zero)", .kind = OPTION_CHOICE,
                .choices = {"file", "zero"}},
    [ENGINE] = {.name = "engine", .help = "how the backend reaches the device", .kind = OPTION_CHOICE,
                .choices = {"auto", "sync", "uring", "inline"}, .value = CBD_ENGINE_INLINE},
    [SPAN] = {.name = "span", .help = "bytes of the device; offsets are random", .value = 67108864, .min = 1048576,
              .max = 1073741824},
    [PIN] = {.name = "pin", .help = "each process on CPUs of its own", .kind = OPTION_CHOICE, .choices = {"no", "yes"}},
    {0},
};

struct client {
    struct cbd_queue *queue;
    uint8_t *buffers; /* QD of them */
    uint64_t *started; /* by buffer */
    uint64_t random;
    uint64_t elapsed; /* ns */
    struct cbd_stats stats;
    struct samples samples;
    pthread_t thread;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint32_t next_op(struct client *c)
{
    switch (options[OP].value) {
    case 0:
        return CBD_READ;
    case 1:
        return CBD_WRITE;
    default:
        return next_random(&c->random) % 100 < READS_OF_MIX ? CBD_READ : CBD_WRITE;
    }
}

static void submit(struct client *c, uint64_t buffer, uint64_t now)
{
    uint64_t bs = options[BS].value, offset = next_random(&c->random) % (options[SPAN].value / bs) * bs;
    int err = cbd_queue_submit(c->queue, next_op(c), 0, offset, (uint32_t)bs, c->buffers + buffer * bs, buffer);

    if (err)
        bench_fail("a request was refused: %s", strerror(-err));
    c->started[buffer] = now;
}

/* Takes what is done; submits as much again before `end`. Returns the time. */
static uint64_t turn(struct client *c, uint64_t end)
{
    struct cbd_completion done[64];
    int n = cbd_queue_wait(c->queue, done, 64, TIMEOUT_US);
    uint64_t now = idle_now_ns();

    if (n <= 0)
        bench_fail("no answer for %u s", TIMEOUT_US / 1000000);
    for (int i = 0; i < n; i++) {
        if (done[i].result)
            bench_fail("a request failed: %s", strerror(-done[i].result));
        samples_add(&c->samples, now - c->started[done[i].user]);
        if (now < end)
            submit(c, done[i].user, now);
    }
    return now;
}

static void *run_client(void *arg)
{
    struct client *c = arg;
    uint64_t start = idle_now_ns(), now = start, end = start + options[SECONDS].value * NS_PER_MS;

    for (uint64_t i = 0; i < options[QD].value; i++)
        submit(c, i, now);
    while (cbd_queue_in_flight(c->queue))
        now = turn(c, end);
    c->elapsed = now - start;
    cbd_queue_stats(c->queue, &c->stats);
    return NULL;
}

static void start_client(struct client *c, const struct world *world, uint32_t index)
{
    size_t bytes = (options[QD].value * options[BS].value + CBD_PAGE - 1) / CBD_PAGE * CBD_PAGE;
    int err = cbd_queue_new(&world->mem, &world->channels[index], &c->queue);

    c->random = 0x9e3779b97f4a7c15ULL * (index + 1);
    c->buffers = aligned_alloc(CBD_PAGE, bytes);
    c->started = calloc(options[QD].value, sizeof(*c->started));
    if (c->buffers)
        memset(c->buffers, (int)index + 1, bytes);
    if (!err)
        err = c->buffers && c->started ? -pthread_create(&c->thread, NULL, run_client, c) : -ENOMEM;
    if (err)
        bench_fail("cannot start queue %u: %s", index, strerror(-err));
}

static void serve(struct world *world, const void *arg)
{
    if (options[PIN].value)
        world_pin(1);
    world_serve(world, arg);
}

static void open_world(struct world *world)
{
    struct cbd_channel_conf conf = {
        .ring_depth = 2, .slot_bytes = CBD_PAGE, .features = options[DATA_CRC].value ? CBD_FEATURE_DATA_CRC : 0};
    struct cbd_backend_conf backend = {
        .logical_block_size = 512, .capacity = options[SPAN].value, .engine = (uint32_t)options[ENGINE].value};

    if (options[BS].value % 512 || options[SPAN].value % options[BS].value)
        bench_fail("--bs must be a multiple of 512 and --span one of --bs");
    while (conf.ring_depth < options[QD].value)
        conf.ring_depth *= 2;
    if (options[BS].value > CBD_PAGE)
        conf.slot_bytes = (uint32_t)(options[BS].value + CBD_PAGE - 1) / CBD_PAGE * CBD_PAGE;
    world_open(world, (uint32_t)options[COHERENCE].value, (uint32_t)options[QUEUES].value, &conf);
    backend.fd = options[DEVICE].value ? open("/dev/zero", O_RDWR | O_CLOEXEC) : world_file(options[SPAN].value);
    if (backend.fd < 0)
        bench_fail("cannot open /dev/zero: %s", strerror(errno));
    world_start_peer(world, serve, &backend);
}

static double microseconds(double ns)
{
    return ns / 1000;
}

static void run(const struct command *command)
{
    uint32_t count = (uint32_t)options[QUEUES].value;
    struct client *clients = calloc(count, sizeof(*clients));
    double iops = 0;
    unsigned long long retries = 0;
    struct world world;
    char more[160];

    if (!clients)
        bench_fail("no memory for %u queues", count);
    open_world(&world);
    if (options[PIN].value)
        world_pin(0);
    for (uint32_t i = 0; i < count; i++)
        start_client(&clients[i], &world, i);
    for (uint32_t i = 0; i < count; i++) {
        pthread_join(clients[i].thread, NULL);
        iops += (double)clients[i].samples.count / (double)clients[i].elapsed * 1e9;
        retries += clients[i].stats.crc_retries;
        if (i)
            samples_merge(&clients[0].samples, &clients[i].samples);
    }
    world_stop_peer(&world);
    snprintf(more, sizeof(more), ", \"iops\": %.6g, \"mb_s\": %.6g, \"crc_retries\": %llu", iops,
             iops * (double)options[BS].value / 1e6, retries);
    bench_report(command, "us", &clients[0].samples, microseconds, more);
}

const struct command command_direct = {
    "direct", "latency of requests through queues and a backend in two processes; also iops and mb_s", options, run};
