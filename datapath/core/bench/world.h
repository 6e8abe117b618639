/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a subcommand measures on: a transport's channels in a file, a second process on them, a device. The files have no names any
 * more when the first sample is taken, so that nothing stays behind, whatever ends the program.
 */
#ifndef CXL_BENCH_WORLD_H
#define CXL_BENCH_WORLD_H

#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "cxl_core.h"

struct world {
    struct cxl_mem mem;
    struct cbd_channel_conf *channels;
    uint32_t count;
    _Atomic uint32_t *ready; /* outside the transport: the second process sets it */
    pid_t peer;
};

#define WORLD_FOLDER "/dev/shm"

/* Where the files are made from now on; at the start WORLD_FOLDER. */
void world_use_folder(const char *path);
const char *world_folder(void);

/* A file of so many bytes; ends the program with a message when there is no room. */
int world_file(uint64_t bytes);
/* A file, mapped by all processes to come, its pages made. */
void *world_memory(uint64_t bytes);

/* Channels on memory of this kind; conf: depth, slot size, features. */
void world_open(struct world *world, uint32_t coherence, uint32_t count, const struct cbd_channel_conf *conf);
/* Starts run(world, arg) in a second process, which ends with this one, and waits until it called world_ready(). */
void world_start_peer(struct world *world, void (*run)(struct world *world, const void *arg), const void *arg);
void world_ready(struct world *world);
void world_stop_peer(struct world *world);

/* A backend on all channels, for ever; to be called in the second process. */
void world_serve(struct world *world, const struct cbd_backend_conf *conf);

/* Each process on its own half of the CPUs (0: the first process, 1: the second); nothing with one CPU. The scheduler would put two
 * processes that spin for each other on one CPU as soon as something else runs on the machine. */
void world_pin(uint32_t half);

#endif
