/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nbdkit plugin: the blkdev's end of a set of channels as an NBD export. Whoever starts nbdkit knows the transport and has claimed
 * the channels; the parameters (nbdkit_conf.c) say where they are.
 */
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <nbdkit-plugin.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "control.h"
#include "nbdkit_conf.h"
#include "pool.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define MAX_REQUEST (32U << 20)

static struct nbdkit_conf conf = NBDKIT_CONF_INIT;
static struct cxl_mem mem;
static struct pool *pool;
static struct control *control;

static int plugin_config(const char *key, const char *value)
{
    return nbdkit_conf_set(&conf, key, value);
}

/* Ends early, with an error, when the connection or the server is about to go: a silent backend must not keep them. */
static int sleep_or_leave(uint64_t ns)
{
    return nbdkit_nanosleep(0, (unsigned)ns);
}

static int plugin_config_complete(void)
{
    int err;

    umask(0177); /* for the socket: nbdkit has set 022 and has no option for it, and whoever can open the socket has the device */
    if (nbdkit_conf_check(&conf) || nbdkit_conf_map(&conf, &mem))
        return -1;
    err = pool_new(&mem, conf.channels, conf.channel_count, sleep_or_leave, &pool);
    if (err) {
        errno = -err;
        nbdkit_error("channel: offset is not a multiple of %u, or a channel lies outside %s (%llu bytes): %m", CBD_PAGE,
                     conf.memory, (unsigned long long)mem.len);
    }
    return err ? -1 : 0;
}

/* Not before: a thread does not survive the fork into the background. */
static int plugin_after_fork(void)
{
    int err = conf.control == NBDKIT_CONF_NONE ? 0 : control_start(conf.control, pool, conf.channels, conf.channel_count, &control);

    if (err) {
        errno = -err;
        nbdkit_error("control=%d: %m", conf.control);
    }
    return err ? -1 : 0;
}

static void plugin_unload(void)
{
    if (control)
        control_stop(control);
    if (pool)
        pool_free(pool);
    if (mem.base)
        munmap(mem.base, mem.len);
    nbdkit_conf_free(&conf);
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
    if (*preferred < conf.physical_block_size)
        *preferred = conf.physical_block_size;
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
    .config_help = NBDKIT_CONF_HELP,
    .after_fork = plugin_after_fork,
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
