/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Load on an NBD server by libnbd, the same for every server that is compared:
 *   nbd_load URI read|write|mix BLOCK_BYTES DEPTH SECONDS
 * keeps DEPTH requests in flight for that long: one block at random places, from 64 KiB on one after the other; "mix" reads 70 of 100.
 * One connection and simple replies, with which libnbd is fastest. Prints a JSON object as cxl-bench does: "value" requests per second
 * and latencies p50 and p99 in microseconds.
 */
#include <errno.h>
#include <libnbd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STREAM_BYTES 65536U
#define MAX_BYTES (32U << 20) /* what every server takes in one request */
#define MAX_DEPTH 1024U
#define MAX_SECONDS 3600.0
#define SAMPLES (1U << 22) /* later ones overwrite the oldest */
#define READS_OF_100 70U

enum { URI = 1, OP, BLOCK, DEPTH, SECONDS, ARGUMENTS };

struct load {
    struct nbd_handle *nbd;
    const char *op;
    uint64_t blocks, next, random, done;
    uint32_t block, depth, in_flight;
    float *latency_us;
    bool failed;
};

struct request {
    struct load *load;
    void *buffer;
    double begin;
    bool in_flight;
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static _Noreturn void fail(const char *what, const char *why)
{
    fprintf(stderr, "nbd_load: %s: %s\n", what, why);
    exit(1);
}

static double number(const char *name, const char *text, double max)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value > 0 && value <= max))
        fail(name, "is no number above 0 in its range");
    return value;
}

/* xorshift64: cheap beside a request. */
static uint64_t draw(struct load *load)
{
    load->random ^= load->random << 13;
    load->random ^= load->random >> 7;
    load->random ^= load->random << 17;
    return load->random;
}

static int completed(void *user, int *error)
{
    struct request *request = user;
    struct load *load = request->load;

    load->failed |= *error != 0;
    load->latency_us[load->done++ % SAMPLES] = (float)((now() - request->begin) * 1e6);
    load->in_flight--;
    request->in_flight = false;
    return 1; /* libnbd forgets the request */
}

static void submit(struct load *load, struct request *request)
{
    uint64_t block = load->block >= STREAM_BYTES ? load->next++ % load->blocks : draw(load) % load->blocks;
    bool reads = !strcmp(load->op, "read") || (!strcmp(load->op, "mix") && draw(load) % 100 < READS_OF_100);
    nbd_completion_callback callback = {.callback = completed, .user_data = request};
    int64_t cookie;

    request->begin = now();
    request->in_flight = true;
    load->in_flight++;
    cookie = reads ? nbd_aio_pread(load->nbd, request->buffer, load->block, block * load->block, callback, 0)
                   : nbd_aio_pwrite(load->nbd, request->buffer, load->block, block * load->block, callback, 0);
    if (cookie < 0)
        fail("request", nbd_get_error());
}

static double run(struct load *load, struct request *requests, double seconds)
{
    double begin = now(), end = begin + seconds;
    bool stop = false;

    while (!stop || load->in_flight) {
        stop = stop || now() >= end;
        for (uint32_t i = 0; i < load->depth && !stop; i++)
            if (!requests[i].in_flight)
                submit(load, &requests[i]);
        if (load->in_flight && nbd_poll(load->nbd, -1) < 0)
            fail("poll", nbd_get_error());
        if (load->failed)
            fail("request", "the server answered with an error");
    }
    return now() - begin;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static void report(struct load *load, double seconds)
{
    uint64_t samples = load->done < SAMPLES ? load->done : SAMPLES;

    if (!samples)
        fail("requests", "none was answered");
    qsort(load->latency_us, samples, sizeof *load->latency_us, by_size);
    printf("{\"name\": \"nbd\", \"unit\": \"IOPS\", \"value\": %.1f, \"p50\": %.3f, \"p99\": %.3f, \"samples\": %llu, "
           "\"params\": {\"op\": \"%s\", \"bs\": %u, \"qd\": %u, \"seconds\": %.3f}}\n",
           (double)load->done / seconds, (double)load->latency_us[samples / 2], (double)load->latency_us[samples * 99 / 100],
           (unsigned long long)samples, load->op, load->block, load->depth, seconds);
}

static void connect_to(struct load *load, const char *uri)
{
    int64_t size;

    load->nbd = nbd_create();
    if (!load->nbd || nbd_set_request_structured_replies(load->nbd, false) < 0 || nbd_connect_uri(load->nbd, uri) < 0)
        fail(uri, nbd_get_error());
    size = nbd_get_size(load->nbd);
    if (size < (int64_t)load->block)
        fail(uri, "is smaller than a block");
    load->blocks = (uint64_t)size / load->block;
}

int main(int argc, char **argv)
{
    struct load load = {.random = 0x9e3779b97f4a7c15};
    struct request *requests;

    if (argc != ARGUMENTS)
        fail("usage", "nbd_load URI read|write|mix BLOCK_BYTES DEPTH SECONDS");
    load.op = argv[OP];
    if (strcmp(load.op, "read") && strcmp(load.op, "write") && strcmp(load.op, "mix"))
        fail(load.op, "is none of read, write, mix");
    load.block = (uint32_t)number("BLOCK_BYTES", argv[BLOCK], MAX_BYTES);
    load.depth = (uint32_t)number("DEPTH", argv[DEPTH], MAX_DEPTH);
    connect_to(&load, argv[URI]);
    load.latency_us = malloc(SAMPLES * sizeof *load.latency_us);
    requests = calloc(load.depth, sizeof *requests);
    if (!load.latency_us || !requests)
        fail("memory", strerror(ENOMEM));
    for (uint32_t i = 0; i < load.depth; i++) {
        requests[i].load = &load;
        requests[i].buffer = aligned_alloc(4096, ((size_t)load.block + 4095) / 4096 * 4096);
        if (!requests[i].buffer)
            fail("memory", strerror(ENOMEM));
        memset(requests[i].buffer, 0x5a, load.block);
    }
    report(&load, run(&load, requests, number("SECONDS", argv[SECONDS], MAX_SECONDS)));
    nbd_shutdown(load.nbd, 0);
    nbd_close(load.nbd);
    for (uint32_t i = 0; i < load.depth; i++)
        free(requests[i].buffer);
    free(requests);
    free(load.latency_us);
    return 0;
}
