/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Reads of 4 KiB through libcblk at random places of a LUN: cblk_bench LUN SECONDS. One JSON object per case: name, iops, and the
 * microseconds of one request at its median and its 99th percentile (depth 1) or on average.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cblk.h"

#define DEPTH 32
#define SAMPLES (1U << 20)
#define NS_PER_S 1000000000ULL

static uint8_t buffers[DEPTH][CBLK_BLOCK_SIZE];
static uint64_t seed = 1;

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static uint64_t place(uint64_t blocks)
{
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (seed >> 33) % blocks;
}

static void die(const char *what)
{
    fprintf(stderr, "cblk_bench: %s: %s %s\n", what, strerror(errno), cblk_last_error());
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

static void one_by_one(chunk_id_t chunk, uint64_t blocks, uint64_t duration_ns)
{
    uint32_t *samples = calloc(SAMPLES, sizeof(*samples));
    uint64_t start = now_ns(), before = start, n = 0;

    if (!samples)
        die("memory");
    while (before - start < duration_ns && n < SAMPLES) {
        uint64_t after;

        if (cblk_read(chunk, buffers[0], place(blocks), 1, 0) != 1)
            die("read");
        after = now_ns();
        samples[n++] = (uint32_t)(after - before);
        before = after;
    }
    qsort(samples, n, sizeof(*samples), by_value);
    printf("{\"name\": \"cblk_4k_qd1_read\", \"iops\": %.0f, \"median_us\": %.3f, \"p99_us\": %.3f}\n",
           (double)n * 1e9 / (double)(before - start), samples[n / 2] / 1e3, samples[n * 99 / 100] / 1e3);
    free(samples);
}

static void many_at_once(chunk_id_t chunk, uint64_t blocks, uint64_t duration_ns)
{
    uint64_t start = now_ns(), n = 0, elapsed;
    int tag;

    for (tag = 0; tag < DEPTH; tag++)
        if (cblk_aread(chunk, buffers[tag], place(blocks), 1, &tag, NULL, CBLK_ARW_USER_TAG_FLAG))
            die("aread");
    while ((elapsed = now_ns() - start) < duration_ns) {
        if (cblk_aresult(chunk, &tag, NULL, CBLK_ARESULT_BLOCKING | CBLK_ARESULT_NEXT_TAG | CBLK_ARESULT_USER_TAG) != 1)
            die("aresult");
        if (cblk_aread(chunk, buffers[tag], place(blocks), 1, &tag, NULL, CBLK_ARW_USER_TAG_FLAG))
            die("aread");
        n++;
    }
    printf("{\"name\": \"cblk_4k_qd32_read\", \"iops\": %.0f, \"mean_us\": %.3f}\n", (double)n * 1e9 / (double)elapsed,
           (double)elapsed / 1e3 * DEPTH / (double)(n ? n : 1));
}

int main(int argc, char **argv)
{
    uint64_t blocks, duration_ns;
    chunk_id_t chunk;

    if (argc != 3 || (duration_ns = strtoull(argv[2], NULL, 10) * NS_PER_S) == 0) {
        fprintf(stderr, "usage: cblk_bench LUN SECONDS\n");
        return 2;
    }
    chunk = cblk_open(argv[1], DEPTH, O_RDONLY, 0);
    if (chunk == NULL_CHUNK_ID || cblk_get_size(chunk, &blocks, 0))
        die("open");
    one_by_one(chunk, blocks, duration_ns);
    many_at_once(chunk, blocks, duration_ns);
    return cblk_close(chunk, 0) ? 1 : 0;
}
