/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nbdkit plugin: a user-space LUN as an NBD export, so that what speaks NBD, and by the kernel's client a CBD backend, can use it.
 *
 *   nbdkit -U SOCKET cxl-lun-nbdkit-plugin.so lun=flash0               the whole LUN
 *   nbdkit -U SOCKET cxl-lun-nbdkit-plugin.so lun=flash0 size=1G       a virtual LUN that ends with the server
 */
#define NBDKIT_API_VERSION 2
#define _GNU_SOURCE
#include <nbdkit-plugin.h>

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cblk.h"

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
#define REQUESTS 128

static char *lun;
static int64_t size;
static int read_only;
static chunk_id_t chunk = NULL_CHUNK_ID;

static int lun_config(const char *key, const char *value)
{
    if (!strcmp(key, "lun")) {
        free(lun);
        lun = strdup(value);
        return lun ? 0 : -1;
    }
    if (!strcmp(key, "size")) {
        size = nbdkit_parse_size(value);
        return size < 0 ? -1 : 0;
    }
    if (!strcmp(key, "read-only")) {
        read_only = nbdkit_parse_bool(value);
        return read_only < 0 ? -1 : 0;
    }
    nbdkit_error("unknown parameter %s: it takes lun, size and read-only", key);
    return -1;
}

static int lun_config_complete(void)
{
    if (!lun)
        nbdkit_error("lun=NAME is missing: its name, WWID, or the path of a service socket and one of them");
    else if (size % CBLK_BLOCK_SIZE)
        nbdkit_error("size=%lld is no multiple of %d", (long long)size, CBLK_BLOCK_SIZE);
    else
        return 0;
    return -1;
}

static int failed(const char *what)
{
    int error = errno;

    nbdkit_error("LUN %s: %s: %m: %s", lun, what, cblk_last_error());
    nbdkit_set_error(error);
    return -1;
}

/* A context belongs to a process: it is opened in the one that stays. */
static int lun_after_fork(void)
{
    chunk = cblk_open(lun, REQUESTS, read_only ? O_RDONLY : O_RDWR, size ? CBLK_OPN_VIRT_LUN : 0);
    if (chunk == NULL_CHUNK_ID)
        return failed("open");
    return size && cblk_set_size(chunk, (uint64_t)size / CBLK_BLOCK_SIZE, 0) ? failed("give it its size") : 0;
}

static void lun_unload(void)
{
    if (chunk != NULL_CHUNK_ID)
        cblk_close(chunk, 0);
    free(lun);
}

static void *lun_open(int readonly)
{
    (void)readonly;
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static int64_t lun_get_size(void *handle)
{
    uint64_t blocks;

    (void)handle;
    return cblk_get_size(chunk, &blocks, 0) ? failed("ask for its size") : (int64_t)(blocks * CBLK_BLOCK_SIZE);
}

static int lun_block_size(void *handle, uint32_t *minimum, uint32_t *preferred, uint32_t *maximum)
{
    (void)handle;
    *minimum = *preferred = CBLK_BLOCK_SIZE;
    *maximum = 32U << 20;
    return 0;
}

static int lun_can_write(void *handle)
{
    (void)handle;
    return !read_only;
}

static int lun_yes(void *handle)
{
    (void)handle;
    return 1;
}

static bool aligned(uint32_t count, uint64_t offset)
{
    return !(count % CBLK_BLOCK_SIZE) && !(offset % CBLK_BLOCK_SIZE);
}

static int unaligned(void)
{
    nbdkit_error("LUN %s: a request is not aligned to %d bytes", lun, CBLK_BLOCK_SIZE);
    nbdkit_set_error(EINVAL);
    return -1;
}

static int lun_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle, (void)flags;
    if (!aligned(count, offset))
        return unaligned();
    return cblk_read(chunk, buf, offset / CBLK_BLOCK_SIZE, count / CBLK_BLOCK_SIZE, 0) < 0 ? failed("read") : 0;
}

static int lun_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle, (void)flags;
    if (!aligned(count, offset))
        return unaligned();
    return cblk_write(chunk, buf, offset / CBLK_BLOCK_SIZE, count / CBLK_BLOCK_SIZE, 0) < 0 ? failed("write") : 0;
}

static int lun_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    (void)handle, (void)flags;
    if (!aligned(count, offset))
        return unaligned();
    return cblk_unmap(chunk, offset / CBLK_BLOCK_SIZE, count / CBLK_BLOCK_SIZE, 0) < 0 ? failed("unmap") : 0;
}

static int lun_flush(void *handle, uint32_t flags)
{
    (void)handle, (void)flags;
    return cblk_sync(chunk, 0) ? failed("flush") : 0;
}

static struct nbdkit_plugin plugin = {
    .name = "cxl-lun",
    .longname = "User-space LUN of cxl-datapathd",
    .description = "Serves a LUN, or a virtual LUN on one",
    .config = lun_config,
    .config_complete = lun_config_complete,
    .config_help = "lun=NAME          (required) name or WWID of the LUN, or SERVICE_SOCKET/NAME\n"
                   "size=SIZE         serve a virtual LUN of this size instead of the whole LUN\n"
                   "read-only=BOOL",
    .after_fork = lun_after_fork,
    .unload = lun_unload,
    .open = lun_open,
    .get_size = lun_get_size,
    .block_size = lun_block_size,
    .can_write = lun_can_write,
    .can_flush = lun_yes,
    .can_trim = lun_yes,
    .can_multi_conn = lun_yes, /* one chunk serves all connections, and its sync covers all of them */
    .pread = lun_pread,
    .pwrite = lun_pwrite,
    .trim = lun_trim,
    .flush = lun_flush,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
