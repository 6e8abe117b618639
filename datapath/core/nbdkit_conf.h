/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Parameters of the nbdkit plugin. Whatever is wrong is told to the user by nbdkit_error(), with the name of the parameter.
 */
#ifndef CXL_NBDKIT_CONF_H
#define CXL_NBDKIT_CONF_H

#include <stdbool.h>

#include "cbd_format.h"
#include "cxl_core.h"

#define NBDKIT_CONF_NONE (-1) /* not given, where 0 is a value */

struct nbdkit_conf {
    char *memory;
    int64_t memory_len; /* 0: not given */
    int coherence;
    int control; /* descriptor of a socket, see control.h */
    uint32_t features, block_size, physical_block_size, ring_depth, slot_bytes;
    int64_t capacity;
    uint64_t fence_off;
    uint32_t host_epoch;
    bool read_only, discard, write_zeroes;
    struct cbd_channel_conf channels[CBD_MAX_QUEUES];
    uint32_t channel_count;
};

#define NBDKIT_CONF_INIT {.coherence = NBDKIT_CONF_NONE, .control = NBDKIT_CONF_NONE}

#define NBDKIT_CONF_HELP \
    "memory=<PATH>            (required) transport: a file or a DAX device\n" \
    "memory_len=<SIZE>        bytes to map; required for a DAX device, a multiple of 2M there\n" \
    "coherence=<KIND>         (required) hardware or software\n" \
    "channel=<OFFSET>:<EPOCH> (required) one per queue, 1 to 16\n" \
    "ring_depth=<N>           (required) as in the transport\n" \
    "slot_bytes=<N>           (required) as in the transport\n" \
    "features=<BITS>          feature bits of the transport, default 0\n" \
    "capacity=<SIZE>          (required) of the backend\n" \
    "block_size=<N>           (required) of the backend, 512 or 4096\n" \
    "physical_block_size=<N>  of the backend, up to 65536, default block_size\n" \
    "fence=<OFFSET>:<EPOCH>   fence line of this host, and its incarnation; without it no fence is looked at\n" \
    "control=<FD>             inherited SOCK_SEQPACKET socket on which the plugin takes: rebind, offline, stats\n" \
    "read_only=0|1 discard=0|1 write_zeroes=0|1   what the backend allows, default 0"

/* All return 0, or -1 after an error was told. */
int nbdkit_conf_set(struct nbdkit_conf *conf, const char *key, const char *value);
/* When all are set: whether they make sense together; completes the channels. */
int nbdkit_conf_check(struct nbdkit_conf *conf);
int nbdkit_conf_map(const struct nbdkit_conf *conf, struct cxl_mem *mem);
void nbdkit_conf_free(struct nbdkit_conf *conf);

#endif
