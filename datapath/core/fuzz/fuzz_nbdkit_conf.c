/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Arbitrary parameters of the nbdkit plugin, one KEY=VALUE per line: what is accepted maps, and makes a pool whose calls end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../tests/check.h"
#include "fuzz.h"
#include "nbdkit_conf.h"
#include "nbdkit_stub.h"
#include "pool.h"

#define MEMORY_BYTES (1U << 20)

static void set_up(void)
{
    int fd = memfd_create("transport", MFD_CLOEXEC);

    CHECK_EQ(ftruncate(fd, MEMORY_BYTES), 0);
    snprintf(nbdkit_stub_file, sizeof(nbdkit_stub_file), "/proc/self/fd/%d", fd);
}

static int give_up(uint64_t ns)
{
    (void)ns;
    return -1;
}

static int set_all(struct nbdkit_conf *conf, char *text)
{
    char *rest = NULL;
    int err = 0;

    for (char *line = strtok_r(text, "\n", &rest); line && !err; line = strtok_r(NULL, "\n", &rest)) {
        char *value = strchr(line, '=');

        if (value) {
            *value++ = '\0';
            err = nbdkit_conf_set(conf, line, value);
        }
        CHECK(err == 0 || err == -1);
    }
    return err;
}

static void use(const struct nbdkit_conf *conf)
{
    struct cxl_mem mem = {0};
    struct pool *pool;
    uint8_t *buf;
    int err;

    CHECK(conf->block_size == 512 || conf->block_size == 4096);
    CHECK(conf->physical_block_size >= conf->block_size && conf->physical_block_size <= 65536);
    CHECK(conf->capacity > 0 && conf->capacity % conf->block_size == 0);
    CHECK(conf->channel_count >= 1 && conf->channel_count <= CBD_MAX_QUEUES);
    if (nbdkit_conf_map(conf, &mem))
        return;
    err = pool_new(&mem, conf->channels, conf->channel_count, give_up, &pool);
    CHECK(err == 0 || err == -EINVAL || err == -ERANGE);
    if (!err) {
        buf = calloc(1, conf->slot_bytes);
        CHECK(pool_run(pool, CBD_WRITE, 0, 0, conf->slot_bytes, buf) < 0);
        free(buf);
        pool_free(pool);
    }
    munmap(mem.base, mem.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbdkit_conf conf = NBDKIT_CONF_INIT;
    char *text = calloc(1, size + 1);

    CHECK(text);
    if (!*nbdkit_stub_file)
        set_up();
    memcpy(text, data, size);
    if (!set_all(&conf, text) && !nbdkit_conf_check(&conf))
        use(&conf);
    nbdkit_conf_free(&conf);
    free(text);
    return 0;
}
