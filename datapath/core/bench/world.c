/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench.h"
#include "cbd_format.h"
#include "idle.h"

#define FENCES CBD_PAGE /* before the channels: the fence lines of both hosts, never raised */
#define BACKEND_FENCE 64U
#define QUEUE_FENCE 128U
#define HOST_EPOCH 1U

static const char *folder = WORLD_FOLDER;

void world_use_folder(const char *path)
{
    folder = path;
}

const char *world_folder(void)
{
    return folder;
}

int world_file(uint64_t bytes)
{
    char path[PATH_MAX];
    int fd, err;

    if (snprintf(path, sizeof(path), "%s/cxl-bench-XXXXXX", folder) >= (int)sizeof(path))
        bench_fail("--folder is too long");
    fd = mkstemp(path);
    if (fd < 0)
        bench_fail("cannot make a file in %s: %s", folder, strerror(errno));
    unlink(path);
    err = posix_fallocate(fd, 0, (off_t)bytes);
    if (err)
        bench_fail("cannot make a file of %llu bytes in %s: %s", (unsigned long long)bytes, folder, strerror(err));
    return fd;
}

void *world_memory(uint64_t bytes)
{
    int fd = world_file(bytes);
    void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);

    if (area == MAP_FAILED)
        bench_fail("cannot map %llu bytes: %s", (unsigned long long)bytes, strerror(errno));
    close(fd);
    return area;
}

static uint64_t channel_bytes(const struct cbd_channel_conf *conf)
{
    uint64_t ring = (conf->ring_depth * sizeof(struct cbd_slot) + CBD_PAGE - 1) / CBD_PAGE * CBD_PAGE;

    return CBD_CHANNEL_RINGS + 2 * (ring + (uint64_t)conf->ring_depth * conf->slot_bytes);
}

void world_open(struct world *world, uint32_t coherence, uint32_t count, const struct cbd_channel_conf *conf)
{
    uint64_t bytes = FENCES + count * channel_bytes(conf);

    *world = (struct world){.mem = {.base = world_memory(bytes), .len = bytes, .coherence = coherence}, .count = count};
    world->ready = mmap(NULL, CBD_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    world->channels = calloc(count, sizeof(*world->channels));
    if (world->ready == MAP_FAILED || !world->channels)
        bench_fail("no memory for %u channels", count);
    for (uint32_t i = 0; i < count; i++) {
        world->channels[i] = *conf;
        world->channels[i].channel_off = FENCES + i * channel_bytes(conf);
        world->channels[i].epoch = 1;
        world->channels[i].fence_off = QUEUE_FENCE;
        world->channels[i].host_epoch = HOST_EPOCH;
    }
}

void world_ready(struct world *world)
{
    atomic_store(world->ready, 1);
}

static void child(struct world *world, void (*run)(struct world *world, const void *arg), const void *arg, pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent)
        run(world, arg);
    _exit(0);
}

static void wait_until_ready(struct world *world)
{
    int status;

    while (!atomic_load(world->ready)) {
        if (waitpid(world->peer, &status, WNOHANG))
            exit(BENCH_USAGE); /* it said why */
        idle_sleep(1000000);
    }
}

void world_start_peer(struct world *world, void (*run)(struct world *world, const void *arg), const void *arg)
{
    pid_t parent = getpid();

    world->peer = fork();
    if (world->peer < 0)
        bench_fail("cannot start a second process: %s", strerror(errno));
    if (!world->peer)
        child(world, run, arg, parent);
    wait_until_ready(world);
}

void world_stop_peer(struct world *world)
{
    kill(world->peer, SIGKILL);
    waitpid(world->peer, NULL, 0);
}

void world_serve(struct world *world, const struct cbd_backend_conf *conf)
{
    struct cbd_backend_conf mine = *conf;
    struct cbd_backend *backend;
    int err;

    mine.fence_off = BACKEND_FENCE;
    mine.host_epoch = HOST_EPOCH;
    err = cbd_backend_new(&world->mem, &mine, &backend);
    for (uint32_t i = 0; i < world->count && !err; i++) {
        struct cbd_channel_conf channel = world->channels[i];

        channel.fence_off = 0; /* it is the queue's */
        err = cbd_backend_add(backend, &channel);
    }
    if (err)
        bench_fail("cannot start the backend: %s", strerror(-err));
    world_ready(world);
    for (;;)
        pause();
}

void world_pin(uint32_t half)
{
    cpu_set_t allowed, mine;
    uint32_t nth = 0;

    sched_getaffinity(0, sizeof(allowed), &allowed);
    CPU_ZERO(&mine);
    for (uint32_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && nth++ % 2 == half)
            CPU_SET(cpu, &mine);
    }
    if (nth > 1)
        sched_setaffinity(0, sizeof(mine), &mine);
}
