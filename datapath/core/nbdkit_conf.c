/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#define NBDKIT_API_VERSION 2
#include "nbdkit_conf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <nbdkit-plugin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control.h"
#include "queue.h"

#define MAX_PHYSICAL_BLOCK 65536U

static int set_memory(struct nbdkit_conf *conf, const char *value)
{
    free(conf->memory);
    conf->memory = nbdkit_realpath(value);
    return conf->memory ? 0 : -1;
}

static int set_coherence(struct nbdkit_conf *conf, const char *value)
{
    if (!strcmp(value, "hardware"))
        conf->coherence = CXL_COHERENCE_HARDWARE;
    else if (!strcmp(value, "software"))
        conf->coherence = CXL_COHERENCE_SOFTWARE;
    else {
        nbdkit_error("coherence=%s: expected hardware or software", value);
        return -1;
    }
    return 0;
}

static int set_size(const char *key, const char *value, int64_t *out)
{
    *out = nbdkit_parse_size(value);
    if (*out == 0)
        nbdkit_error("%s=%s: must be more than zero", key, value);
    return *out > 0 ? 0 : -1;
}

static int set_bool(const char *value, bool *out)
{
    int flag = nbdkit_parse_bool(value);

    *out = flag > 0;
    return flag < 0 ? -1 : 0;
}

static int set_control(struct nbdkit_conf *conf, const char *value)
{
    if (nbdkit_parse_int("control", value, &conf->control))
        return -1;
    if (conf->control < 0)
        nbdkit_error("control=%s: expected the number of a descriptor", value);
    return conf->control < 0 ? -1 : 0;
}

/* channel=OFFSET:EPOCH, once per queue */
static int add_channel(struct nbdkit_conf *conf, const char *value)
{
    const char *colon = strchr(value, ':');
    char *offset;
    int err;

    if (conf->channel_count == CBD_MAX_QUEUES) {
        nbdkit_error("channel=%s: a blkdev has at most %u queues", value, CBD_MAX_QUEUES);
        return -1;
    }
    if (!colon) {
        nbdkit_error("channel=%s: expected OFFSET:EPOCH", value);
        return -1;
    }
    offset = strndup(value, (size_t)(colon - value));
    if (!offset) {
        nbdkit_error("channel=%s: %m", value);
        return -1;
    }
    err = nbdkit_parse_uint64_t("channel offset", offset, &conf->channels[conf->channel_count].channel_off);
    free(offset);
    if (!err)
        err = nbdkit_parse_uint32_t("channel epoch", colon + 1, &conf->channels[conf->channel_count].epoch);
    conf->channel_count += !err;
    return err;
}

/* fence=OFFSET:EPOCH */
static int set_fence(struct nbdkit_conf *conf, const char *value)
{
    char end;

    if (sscanf(value, "%" SCNu64 ":%" SCNu32 "%c", &conf->fence_off, &conf->host_epoch, &end) == 2 && conf->host_epoch)
        return 0;
    nbdkit_error("fence=%s: expected OFFSET:EPOCH", value);
    return -1;
}

int nbdkit_conf_set(struct nbdkit_conf *conf, const char *key, const char *value)
{
    if (!strcmp(key, "memory"))
        return set_memory(conf, value);
    if (!strcmp(key, "memory_len"))
        return set_size(key, value, &conf->memory_len);
    if (!strcmp(key, "coherence"))
        return set_coherence(conf, value);
    if (!strcmp(key, "features"))
        return nbdkit_parse_uint32_t(key, value, &conf->features);
    if (!strcmp(key, "capacity"))
        return set_size(key, value, &conf->capacity);
    if (!strcmp(key, "block_size"))
        return nbdkit_parse_uint32_t(key, value, &conf->block_size);
    if (!strcmp(key, "physical_block_size"))
        return nbdkit_parse_uint32_t(key, value, &conf->physical_block_size);
    if (!strcmp(key, "fence"))
        return set_fence(conf, value);
    if (!strcmp(key, "control"))
        return set_control(conf, value);
    if (!strcmp(key, "read_only"))
        return set_bool(value, &conf->read_only);
    if (!strcmp(key, "discard"))
        return set_bool(value, &conf->discard);
    if (!strcmp(key, "write_zeroes"))
        return set_bool(value, &conf->write_zeroes);
    if (!strcmp(key, "ring_depth"))
        return nbdkit_parse_uint32_t(key, value, &conf->ring_depth);
    if (!strcmp(key, "slot_bytes"))
        return nbdkit_parse_uint32_t(key, value, &conf->slot_bytes);
    if (!strcmp(key, "channel"))
        return add_channel(conf, value);
    nbdkit_error("%s: no such parameter", key);
    return -1;
}

static int check_geometry(struct nbdkit_conf *conf)
{
    if (conf->block_size != 512 && conf->block_size != 4096) {
        nbdkit_error("block_size=%u: expected 512 or 4096", conf->block_size);
        return -1;
    }
    if (!conf->physical_block_size)
        conf->physical_block_size = conf->block_size;
    if (conf->physical_block_size < conf->block_size || conf->physical_block_size > MAX_PHYSICAL_BLOCK ||
        (conf->physical_block_size & (conf->physical_block_size - 1))) {
        nbdkit_error("physical_block_size=%u: expected a power of two from block_size=%u to %u", conf->physical_block_size,
                     conf->block_size, MAX_PHYSICAL_BLOCK);
        return -1;
    }
    if (!conf->capacity || conf->capacity % conf->block_size) {
        nbdkit_error("capacity=%lld: expected a multiple of block_size=%u", (long long)conf->capacity, conf->block_size);
        return -1;
    }
    if (conf->ring_depth < CBD_MIN_DEPTH || conf->ring_depth > CBD_MAX_DEPTH || (conf->ring_depth & (conf->ring_depth - 1))) {
        nbdkit_error("ring_depth=%u: expected a power of two from %u to %u", conf->ring_depth, CBD_MIN_DEPTH, CBD_MAX_DEPTH);
        return -1;
    }
    if (conf->slot_bytes < CBD_MIN_SLOT_BYTES || conf->slot_bytes > CBD_MAX_SLOT_BYTES || conf->slot_bytes % CBD_PAGE) {
        nbdkit_error("slot_bytes=%u: expected a multiple of %u up to %u", conf->slot_bytes, CBD_PAGE, CBD_MAX_SLOT_BYTES);
        return -1;
    }
    if (conf->features & ~(uint32_t)CBD_FEATURE_DATA_CRC) {
        nbdkit_error("features=%u: unknown bits; this plugin is older than the transport", conf->features);
        return -1;
    }
    return 0;
}

static int check_channels(struct nbdkit_conf *conf)
{
    uint32_t twice = cbd_channels_twice(conf->channels, conf->channel_count);

    if (twice < conf->channel_count) {
        nbdkit_error("channel=%llu: given twice", (unsigned long long)conf->channels[twice].channel_off);
        return -1;
    }
    for (uint32_t i = 0; i < conf->channel_count; i++) {
        conf->channels[i].ring_depth = conf->ring_depth;
        conf->channels[i].slot_bytes = conf->slot_bytes;
        conf->channels[i].features = conf->features;
        conf->channels[i].fence_off = conf->fence_off;
        conf->channels[i].host_epoch = conf->host_epoch;
    }
    return 0;
}

static int check_control(const struct nbdkit_conf *conf)
{
    int err = conf->control == NBDKIT_CONF_NONE ? 0 : control_check(conf->control);

    if (!err)
        return 0;
    errno = -err;
    nbdkit_error("control=%d: expected the number of an inherited SOCK_SEQPACKET socket: %m", conf->control);
    return -1;
}

int nbdkit_conf_check(struct nbdkit_conf *conf)
{
    if (!conf->memory || conf->coherence == NBDKIT_CONF_NONE || !conf->channel_count) {
        nbdkit_error("memory, coherence and at least one channel must be given");
        return -1;
    }
    return check_geometry(conf) || check_channels(conf) || check_control(conf) ? -1 : 0;
}

/* How much of the memory to map, or -1. */
static int64_t map_length(const struct nbdkit_conf *conf, int fd)
{
    struct stat st;

    if (fstat(fd, &st)) {
        nbdkit_error("memory=%s: %m", conf->memory);
        return -1;
    }
    if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) {
        nbdkit_error("memory=%s: neither a file nor a DAX device", conf->memory);
        return -1;
    }
    if (S_ISREG(st.st_mode) && conf->memory_len > st.st_size) {
        nbdkit_error("memory_len=%lld: %s has only %lld bytes", (long long)conf->memory_len, conf->memory, (long long)st.st_size);
        return -1;
    }
    if (!S_ISREG(st.st_mode) && !conf->memory_len) {
        nbdkit_error("memory=%s: is a device, give memory_len=<SIZE>", conf->memory);
        return -1;
    }
    return conf->memory_len ? conf->memory_len : st.st_size;
}

int nbdkit_conf_map(const struct nbdkit_conf *conf, struct cxl_mem *mem)
{
    int fd = open(conf->memory, O_RDWR | O_CLOEXEC);
    int64_t len;

    if (fd < 0) {
        nbdkit_error("memory=%s: %m", conf->memory);
        return -1;
    }
    len = map_length(conf, fd);
    if (len > 0) {
        void *base = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (base == MAP_FAILED)
            nbdkit_error("memory=%s: mapping %lld bytes: %m", conf->memory, (long long)len);
        else
            *mem = (struct cxl_mem){.base = base, .len = (uint64_t)len, .coherence = (uint32_t)conf->coherence};
    } else if (!len) {
        nbdkit_error("memory=%s: is empty", conf->memory);
    }
    close(fd);
    return mem->base ? 0 : -1;
}

void nbdkit_conf_free(struct nbdkit_conf *conf)
{
    free(conf->memory);
}
