/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a program gets from the kernel without us: O_DIRECT, by io_uring or by a system call for each request, on the kind of file that
 * the other subcommands use as a device.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
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
#define FILL_BYTES (1U << 20)
#define NS_PER_MS 1000000ULL

enum { HOW, OP, BS, QD, SECONDS, SPAN };
enum { BY_URING, BY_CALL };

static struct option options[] = {
    [HOW] = {.name = "how", .help = "call: pread and pwrite, one at a time", .kind = OPTION_CHOICE, .choices = {"uring", "call"}},
    [OP] = {.name = "op", .help = "what is done at random places", .kind = OPTION_CHOICE, .choices = {"read", "write"}},
    [BS] = {.name = "bs", .help = "bytes of one request", .value = 4096, .min = 4096, .max = 1048576},
    [QD] = {.name = "qd", .help = "requests in flight", .value = 1, .min = 1, .max = MAX_DEPTH},
    [SECONDS] = {.name = "seconds", .help = "duration", .kind = OPTION_SECONDS, .value = 1000, .min = 10, .max = 60000},
    [SPAN] = {.name = "span", .help = "bytes of the file", .value = 67108864, .min = 1048576, .max = 1073741824},
    {0},
};

struct load {
    struct io_uring ring;
    struct samples samples;
    uint8_t *buffers;
    uint64_t started[MAX_DEPTH];
    uint64_t random, in_flight;
    int fd;
};

/* Every page is there: what was never written would be answered without being read. */
static void fill(int fd, uint8_t *bytes)
{
    for (uint64_t at = 0; at < options[SPAN].value; at += FILL_BYTES)
        if (pwrite(fd, bytes, FILL_BYTES, (off_t)at) != FILL_BYTES)
            bench_fail("cannot fill the file: %s", strerror(errno));
}

/* Whether requests go around the page cache: not on a tmpfs before Linux 6.6. */
static bool make_direct(int fd)
{
    return !fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_DIRECT);
}

static uint64_t place(struct load *load)
{
    uint64_t bs = options[BS].value;

    load->random ^= load->random << 13;
    load->random ^= load->random >> 7;
    load->random ^= load->random << 17;
    return load->random % (options[SPAN].value / bs) * bs;
}

static void submit(struct load *load, uint64_t slot, uint64_t now)
{
    uint64_t bs = options[BS].value, offset = place(load);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&load->ring);
    uint8_t *buffer = load->buffers + slot * bs;

    if (options[OP].value)
        io_uring_prep_write(sqe, load->fd, buffer, (uint32_t)bs, offset);
    else
        io_uring_prep_read(sqe, load->fd, buffer, (uint32_t)bs, offset);
    io_uring_sqe_set_data64(sqe, slot);
    load->started[slot] = now;
    load->in_flight++;
}

/* Takes what is done; submits as much again before `end`. Returns the time. */
static uint64_t turn(struct load *load, uint64_t end)
{
    struct io_uring_cqe *done[64];
    int err = io_uring_submit_and_wait(&load->ring, 1);
    uint32_t n = io_uring_peek_batch_cqe(&load->ring, done, 64);
    uint64_t now = idle_now_ns();

    if (err < 0)
        bench_fail("io_uring: %s", strerror(-err));
    for (uint32_t i = 0; i < n; i++) {
        uint64_t slot = io_uring_cqe_get_data64(done[i]);

        if (done[i]->res != (int)options[BS].value)
            bench_fail("a request failed: %s", strerror(-done[i]->res));
        samples_add(&load->samples, now - load->started[slot]);
        load->in_flight--;
        if (now < end)
            submit(load, slot, now);
    }
    io_uring_cq_advance(&load->ring, n);
    return now;
}

/* Returns the time at the end. */
static uint64_t by_uring(struct load *load, uint64_t now, uint64_t end)
{
    int err = io_uring_queue_init((uint32_t)options[QD].value, &load->ring, 0);

    if (err)
        bench_fail("io_uring: %s", strerror(-err));
    for (uint64_t slot = 0; slot < options[QD].value; slot++)
        submit(load, slot, now);
    while (load->in_flight)
        now = turn(load, end);
    return now;
}

static uint64_t by_call(struct load *load, uint64_t now, uint64_t end)
{
    size_t bs = options[BS].value;

    while (now < end) {
        off_t at = (off_t)place(load);
        ssize_t n = options[OP].value ? pwrite(load->fd, load->buffers, bs, at) : pread(load->fd, load->buffers, bs, at);
        uint64_t after = idle_now_ns();

        if (n != (ssize_t)bs)
            bench_fail("a request failed: %s", strerror(errno));
        samples_add(&load->samples, after - now);
        now = after;
    }
    return now;
}

static double microseconds(double ns)
{
    return ns / 1000;
}

static void run(const struct command *command)
{
    uint64_t start, now, bytes = options[QD].value * options[BS].value;
    struct load *load = calloc(1, sizeof(*load));
    char more[80];
    bool direct;

    if (options[BS].value % CBD_PAGE || options[SPAN].value % FILL_BYTES)
        bench_fail("--bs must be a multiple of %u, --span one of %u", CBD_PAGE, FILL_BYTES);
    if (!load || !(load->buffers = aligned_alloc(CBD_PAGE, bytes < FILL_BYTES ? FILL_BYTES : bytes)))
        bench_fail("no memory for %llu bytes", (unsigned long long)bytes);
    memset(load->buffers, 1, bytes < FILL_BYTES ? FILL_BYTES : bytes);
    load->random = 0x9e3779b97f4a7c15ULL;
    load->fd = world_file(options[SPAN].value);
    fill(load->fd, load->buffers);
    direct = make_direct(load->fd);
    start = idle_now_ns();
    now = (options[HOW].value == BY_CALL ? by_call : by_uring)(load, start, start + options[SECONDS].value * NS_PER_MS);
    snprintf(more, sizeof(more), ", \"iops\": %.6g, \"direct\": %d", (double)load->samples.count / (double)(now - start) * 1e9,
             direct);
    bench_report(command, "us", &load->samples, microseconds, more);
}

const struct command command_kernel = {
    "kernel", "latency of requests with O_DIRECT to a file in memory, without us; also iops", options, run};
