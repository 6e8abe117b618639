/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Requests of 4 KiB through libcblk at random places of a LUN: cblk_bench LUN read|write DEPTH SECONDS. Depth 1 uses the synchronous
 * calls. Prints one JSON object as cxl-bench does: "iops", and latencies p10, p50 and p99 in microseconds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/samples.h"
#include "cblk.h"

#define DEPTH_MAX 256
#define SECONDS_MAX 3600.0
#define NS_PER_S 1e9

enum { LUN = 1, OP, DEPTH, SECONDS, ARGUMENTS };

struct load {
    chunk_id_t chunk;
    bool writes;
    int depth;
    uint64_t blocks, random, done, started[DEPTH_MAX];
    struct samples samples;
};

static uint8_t buffers[DEPTH_MAX][CBLK_BLOCK_SIZE];

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * (uint64_t)NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t place(struct load *load)
{
    load->random ^= load->random << 13;
    load->random ^= load->random >> 7;
    load->random ^= load->random << 17;
    return load->random % load->blocks;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "cblk_bench: %s: %s %s\n", what, strerror(errno), cblk_last_error());
    exit(1);
}

static double number(const char *text, double max)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value > 0 && value <= max)) {
        fprintf(stderr, "cblk_bench: %s is no number above 0 and at most %g\n", text, max);
        exit(2);
    }
    return value;
}

/* One after the other. Returns the time of the last answer. */
static uint64_t one_by_one(struct load *load, uint64_t start, uint64_t end)
{
    uint64_t before = start, after;

    while (before < end) {
        int64_t n = load->writes ? cblk_write(load->chunk, buffers[0], place(load), 1, 0)
                                 : cblk_read(load->chunk, buffers[0], place(load), 1, 0);

        if (n != 1)
            die("a request");
        after = now_ns();
        samples_add(&load->samples, after - before);
        before = after;
        load->done++;
    }
    return before;
}

static void begin(struct load *load, int tag)
{
    int flags = CBLK_ARW_USER_TAG_FLAG;
    int err = load->writes ? cblk_awrite(load->chunk, buffers[tag], place(load), 1, &tag, NULL, flags)
                           : cblk_aread(load->chunk, buffers[tag], place(load), 1, &tag, NULL, flags);

    if (err)
        die("a request");
}

static uint64_t many_at_once(struct load *load, uint64_t start, uint64_t end)
{
    int flags = CBLK_ARESULT_BLOCKING | CBLK_ARESULT_NEXT_TAG | CBLK_ARESULT_USER_TAG, in_flight = load->depth, tag;
    uint64_t now = start;

    for (tag = 0; tag < load->depth; tag++) {
        load->started[tag] = now_ns();
        begin(load, tag);
    }
    while (in_flight) {
        if (cblk_aresult(load->chunk, &tag, NULL, flags) != 1)
            die("a result");
        now = now_ns();
        samples_add(&load->samples, now - load->started[tag]);
        load->started[tag] = now;
        load->done++;
        if (now < end)
            begin(load, tag);
        else
            in_flight--;
    }
    return now;
}

int main(int argc, char **argv)
{
    struct load load = {.random = 0x9e3779b97f4a7c15ULL};
    uint64_t start, end, last;

    if (argc != ARGUMENTS || (strcmp(argv[OP], "read") && strcmp(argv[OP], "write"))) {
        fprintf(stderr, "usage: cblk_bench LUN read|write DEPTH SECONDS\n");
        return 2;
    }
    load.writes = !strcmp(argv[OP], "write");
    load.depth = (int)number(argv[DEPTH], DEPTH_MAX);
    end = (uint64_t)(number(argv[SECONDS], SECONDS_MAX) * NS_PER_S);
    load.chunk = cblk_open(argv[LUN], load.depth, load.writes ? O_RDWR : O_RDONLY, 0);
    if (load.chunk == NULL_CHUNK_ID || cblk_get_size(load.chunk, &load.blocks, 0))
        die("open");
    start = now_ns();
    end += start;
    last = load.depth == 1 ? one_by_one(&load, start, end) : many_at_once(&load, start, end);
    printf("{\"name\": \"cblk\", \"iops\": %.6g, ", (double)load.done / (double)(last - start) * NS_PER_S);
    printf("\"p10\": %.6g, \"p50\": %.6g, \"p99\": %.6g}\n", samples_percentile(&load.samples, 10) / 1e3,
           samples_percentile(&load.samples, 50) / 1e3, samples_percentile(&load.samples, 99) / 1e3);
    return cblk_close(load.chunk, 0) ? 1 : 0;
}
