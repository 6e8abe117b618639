/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nbdkit plugin: the blkdev's end of a set of channels as an NBD export. Whoever starts nbdkit knows the transport and has claimed
 * the channels; the parameters say where they are.
 */
#define _GNU_SOURCE
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <fcntl.h>
#include <nbdkit-plugin.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cbd_format.h"
#include "cxl_core.h"
#include "pool.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAX_REQUEST (32U << 20)

static struct {
    char *memory;
    int64_t memory_len; /* 0: not given */
    int coherence;      /* -1: not given */
    uint32_t features, block_size, ring_depth, slot_bytes;
    int64_t capacity;
    bool read_only, discard, write_zeroes;
    struct cbd_channel_conf channels[CBD_MAX_QUEUES];
    uint32_t channel_count;
} conf = {.coherence = -1};

static struct cxl_mem mem;
static struct pool *pool;

/* ---- parameters --------------------------------------------------------------------------------------------------------- */

static int set_memory(const char *value)
{
    free(conf.memory);
    conf.memory = nbdkit_realpath(value);
    return conf.memory ? 0 : -1;
}

static int set_coherence(const char *value)
{
    if (!strcmp(value, "hardware"))
        conf.coherence = CXL_COHERENCE_HARDWARE;
    else if (!strcmp(value, "software"))
        conf.coherence = CXL_COHERENCE_SOFTWARE;
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

/* channel=OFFSET:EPOCH, once per queue */
static int add_channel(const char *value)
{
    const char *colon = strchr(value, ':');
    char *offset;
    int err;

    if (conf.channel_count == CBD_MAX_QUEUES) {
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
    err = nbdkit_parse_uint64_t("channel offset", offset, &conf.channels[conf.channel_count].channel_off);
    free(offset);
    if (!err)
        err = nbdkit_parse_uint32_t("channel epoch", colon + 1, &conf.channels[conf.channel_count].epoch);
    conf.channel_count += !err;
    return err;
}

static int plugin_config(const char *key, const char *value)
{
    if (!strcmp(key, "memory"))
        return set_memory(value);
    if (!strcmp(key, "memory_len"))
        return set_size(key, value, &conf.memory_len);
    if (!strcmp(key, "coherence"))
        return set_coherence(value);
    if (!strcmp(key, "features"))
        return nbdkit_parse_uint32_t(key, value, &conf.features);
    if (!strcmp(key, "capacity"))
        return set_size(key, value, &conf.capacity);
    if (!strcmp(key, "block_size"))
        return nbdkit_parse_uint32_t(key, value, &conf.block_size);
    if (!strcmp(key, "read_only"))
        return set_bool(value, &conf.read_only);
    if (!strcmp(key, "discard"))
        return set_bool(value, &conf.discard);
    if (!strcmp(key, "write_zeroes"))
        return set_bool(value, &conf.write_zeroes);
    if (!strcmp(key, "ring_depth"))
        return nbdkit_parse_uint32_t(key, value, &conf.ring_depth);
    if (!strcmp(key, "slot_bytes"))
        return nbdkit_parse_uint32_t(key, value, &conf.slot_bytes);
    if (!strcmp(key, "channel"))
        return add_channel(value);
    nbdkit_error("%s: no such parameter", key);
    return -1;
}

#define PLUGIN_HELP \
    "memory=<PATH>            (required) transport: a file or a DAX device\n" \
    "memory_len=<SIZE>        bytes to map; required for a DAX device, a multiple of 2M there\n" \
    "coherence=<KIND>         (required) hardware or software\n" \
    "channel=<OFFSET>:<EPOCH> (required) one per queue, 1 to 16\n" \
    "ring_depth=<N>           (required) as in the transport\n" \
    "slot_bytes=<N>           (required) as in the transport\n" \
    "features=<BITS>          feature bits of the transport, default 0\n" \
    "capacity=<SIZE>          (required) of the backend\n" \
    "block_size=<N>           (required) of the backend, 512 or 4096\n" \
    "read_only=0|1 discard=0|1 write_zeroes=0|1   what the backend allows, default 0"

static int check_geometry(void)
{
    if (conf.block_size != 512 && conf.block_size != 4096) {
        nbdkit_error("block_size=%u: expected 512 or 4096", conf.block_size);
        return -1;
    }
    if (!conf.capacity || conf.capacity % conf.block_size) {
        nbdkit_error("capacity=%lld: expected a multiple of block_size=%u", (long long)conf.capacity, conf.block_size);
        return -1;
    }
    if (conf.ring_depth < CBD_MIN_DEPTH || conf.ring_depth > CBD_MAX_DEPTH || (conf.ring_depth & (conf.ring_depth - 1))) {
        nbdkit_error("ring_depth=%u: expected a power of two from %u to %u", conf.ring_depth, CBD_MIN_DEPTH, CBD_MAX_DEPTH);
        return -1;
    }
    if (conf.slot_bytes < CBD_MIN_SLOT_BYTES || conf.slot_bytes > CBD_MAX_SLOT_BYTES || conf.slot_bytes % CBD_PAGE) {
        nbdkit_error("slot_bytes=%u: expected a multiple of %u up to %u", conf.slot_bytes, CBD_PAGE, CBD_MAX_SLOT_BYTES);
        return -1;
    }
    if (conf.features & ~(uint32_t)CBD_FEATURE_DATA_CRC) {
        nbdkit_error("features=%u: unknown bits; this plugin is older than the transport", conf.features);
        return -1;
    }
    return 0;
}

/* How much of the memory to map, or -1. */
static int64_t map_length(int fd)
{
    struct stat st;

    if (fstat(fd, &st)) {
        nbdkit_error("memory=%s: %m", conf.memory);
        return -1;
    }
    if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) {
        nbdkit_error("memory=%s: neither a file nor a DAX device", conf.memory);
        return -1;
    }
    if (S_ISREG(st.st_mode) && conf.memory_len > st.st_size) {
        nbdkit_error("memory_len=%lld: %s has only %lld bytes", (long long)conf.memory_len, conf.memory, (long long)st.st_size);
        return -1;
    }
    if (!S_ISREG(st.st_mode) && !conf.memory_len) {
        nbdkit_error("memory=%s: is a device, give memory_len=<SIZE>", conf.memory);
        return -1;
    }
    return conf.memory_len ? conf.memory_len : st.st_size;
}

static int map_memory(void)
{
    int fd = open(conf.memory, O_RDWR | O_CLOEXEC);
    int64_t len;

    if (fd < 0) {
        nbdkit_error("memory=%s: %m", conf.memory);
        return -1;
    }
    len = map_length(fd);
    if (len > 0) {
        void *base = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (base == MAP_FAILED)
            nbdkit_error("memory=%s: mapping %lld bytes: %m", conf.memory, (long long)len);
        else
            mem = (struct cxl_mem){.base = base, .len = (uint64_t)len, .coherence = (uint32_t)conf.coherence};
    } else if (!len) {
        nbdkit_error("memory=%s: is empty", conf.memory);
    }
    close(fd);
    return mem.base ? 0 : -1;
}

/* Ends early, with an error, when the connection or the server is about to go: a silent backend must not keep them. */
static int sleep_or_leave(uint64_t ns)
{
    return nbdkit_nanosleep(0, (unsigned)ns);
}

static int plugin_config_complete(void)
{
    int err;

    if (!conf.memory || conf.coherence < 0 || !conf.channel_count) {
        nbdkit_error("memory, coherence and at least one channel must be given");
        return -1;
    }
    if (check_geometry() || map_memory())
        return -1;
    for (uint32_t i = 0; i < conf.channel_count; i++) {
        conf.channels[i].ring_depth = conf.ring_depth;
        conf.channels[i].slot_bytes = conf.slot_bytes;
        conf.channels[i].features = conf.features;
        for (uint32_t j = 0; j < i; j++) {
            if (conf.channels[j].channel_off == conf.channels[i].channel_off) {
                nbdkit_error("channel=%llu: given twice", (unsigned long long)conf.channels[i].channel_off);
                return -1;
            }
        }
    }
    err = pool_new(&mem, conf.channels, conf.channel_count, sleep_or_leave, &pool);
    if (err) {
        errno = -err;
        nbdkit_error("channel: offset is not a multiple of %u, or a channel lies outside %s (%llu bytes): %m", CBD_PAGE,
                     conf.memory, (unsigned long long)mem.len);
    }
    return err ? -1 : 0;
}

static void plugin_unload(void)
{
    if (pool)
        pool_free(pool);
    if (mem.base)
        munmap(mem.base, mem.len);
    free(conf.memory);
}

/* ---- the export --------------------------------------------------------------------------------------------------------- */

static void *plugin_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t plugin_get_size(void *handle)
{
    (void)handle;
    return conf.capacity;
}

static int plugin_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = conf.block_size;
    for (*preferred = CBD_PAGE; *preferred * 2 <= conf.slot_bytes;)
        *preferred *= 2;
    *maximum = MAX_REQUEST;
    return 0;
}

static int plugin_can_write(void *handle)
{
    (void)handle;
    return !conf.read_only;
}

static int plugin_can_trim(void *handle)
{
    (void)handle;
    return conf.discard;
}

/* Where the backend cannot, nbdkit writes zeroes by itself. */
static int plugin_can_zero(void *handle)
{
    (void)handle;
    return conf.write_zeroes;
}

static int plugin_yes(void *handle)
{
    (void)handle;
    return 1;
}

static int plugin_can_fua(void *handle)
{
    (void)handle;
    return NBDKIT_FUA_NATIVE;
}

static int run(const char *what, uint32_t op, uint32_t flags, uint64_t offset, uint32_t count, void *buf)
{
    int err = pool_run(pool, op, flags & NBDKIT_FLAG_FUA ? CBD_FUA : 0, offset, count, buf);

    if (!err)
        return 0;
    errno = -err;
    nbdkit_error("%s of %u bytes at %llu: %m", what, count, (unsigned long long)offset);
    nbdkit_set_error(-err);
    return -1;
}

static int plugin_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle, (void)flags;
    return run("read", CBD_READ, 0, offset, count, buf);
}

static int plugin_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    return run("write", CBD_WRITE, flags, offset, count, (void *)(uintptr_t)buf); /* a write only reads its buffer */
}

static int plugin_flush(void *handle, uint32_t flags)
{
    (void)handle, (void)flags;
    return run("flush", CBD_FLUSH, 0, 0, 0, NULL);
}

static int plugin_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    return run("trim", CBD_DISCARD, flags, offset, count, NULL);
}

static int plugin_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle;
    return run("zero", CBD_WRITE_ZEROES, flags, offset, count, NULL);
}

static struct nbdkit_plugin plugin = {
    .name = "cxl-cbd",
    .longname = "CBD block device over shared CXL memory",
    .description = "Serves a blkdev of a CBD transport",
    .config = plugin_config,
    .config_complete = plugin_config_complete,
    .config_help = PLUGIN_HELP,
    .unload = plugin_unload,
    .open = plugin_open,
    .get_size = plugin_get_size,
    .block_size = plugin_block_size,
    .can_write = plugin_can_write,
    .can_flush = plugin_yes,
    .can_trim = plugin_can_trim,
    .can_zero = plugin_can_zero,
    .can_fua = plugin_can_fua,
    .can_multi_conn = plugin_yes, /* one backend serves all connections, and its flush covers all of them */
    .pread = plugin_pread,
    .pwrite = plugin_pwrite,
    .flush = plugin_flush,
    .trim = plugin_trim,
    .zero = plugin_zero,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
