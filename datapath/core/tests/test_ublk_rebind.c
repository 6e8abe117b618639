/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The ublk front end on the real driver: a device whose backend dies, comes back elsewhere, or stays away.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "idle.h"
#include "ublk_ctrl.h"
#include "ublk_device.h"

#define BIG (16U * SLOT_BYTES)
#define DEATHS 100U

static struct fixture f;
static uint8_t *back;
static uint64_t state = 78;

struct load {
    int fd;
    uint64_t first; /* of its half of the device */
    atomic_bool enough;
    atomic_uint rounds;
};

static void *verify_half(void *arg)
{
    struct load *load = arg;
    uint8_t *out = aligned_alloc(4096, BIG), *in = aligned_alloc(4096, BIG);
    uint64_t own = load->first + 1;

    CHECK(out && in);
    while (!load->enough) {
        uint32_t len = BLOCK * (1 + (uint32_t)(rng(&own) % (BIG / BLOCK)));
        off_t off = (off_t)(load->first + BLOCK * (rng(&own) % ((CAPACITY / 2 - len) / BLOCK + 1)));

        fill_random(out, len, &own);
        CHECK_EQ(pwrite(load->fd, out, len, off), len);
        CHECK_EQ(pread(load->fd, in, len, off), len);
        CHECK_EQ(memcmp(out, in, len), 0);
        load->rounds++;
    }
    free(out);
    free(in);
    return NULL;
}

static void await_load(struct load *load, unsigned more)
{
    unsigned until = load->rounds + more;

    while (load->rounds < until)
        idle_sleep(1000000);
}

static void come_back(struct cbd_ublk *u)
{
    next_epoch(&f);
    CHECK_EQ(cbd_ublk_rebind(u, f.conf), 0);
}

static void test_rebind(void)
{
    struct cbd_ublk_conf conf = ublk_conf(-1);
    struct cbd_ublk *u = start_ublk(&f, &conf);
    int fd = open_device(cbd_ublk_dev_id(u), O_RDWR | O_DIRECT);
    struct load load[2] = {{.fd = fd}, {.fd = fd, .first = CAPACITY / 2}};
    struct cbd_channel_conf bad[CHANNELS];
    pthread_t threads[2];

    TEST("a rebind while nothing is in flight, and ones that are refused");
    CHECK(fd >= 0);
    for (unsigned i = 0; i < 20; i++)
        come_back(u);
    CHECK_EQ(pread(fd, back, 4096, 0), 4096);
    memcpy(bad, f.conf, sizeof(bad));
    CHECK_EQ(cbd_ublk_rebind(u, bad), -EINVAL); /* where it is already */
    bad[0].channel_off = f.mem.len;
    CHECK_EQ(cbd_ublk_rebind(u, bad), -ERANGE);
    CHECK_EQ(cbd_ublk_rebind(u, NULL), -EINVAL);
    CHECK_EQ(pread(fd, back, 4096, 0), 4096);

    TEST("verifying writers do not notice that the backend dies and comes back on other channels");
    for (unsigned i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, verify_half, &load[i]), 0);
    for (unsigned i = 0; i < DEATHS; i++) {
        await_load(&load[i % 2], (unsigned)(rng(&state) % 3));
        silence_backend(&f);
        idle_sleep(rng(&state) % 5000000);
        come_back(u);
    }
    await_load(&load[0], 3);
    for (unsigned i = 0; i < 2; i++) {
        load[i].enough = true;
        pthread_join(threads[i], NULL);
    }
    close(fd);
    CHECK_EQ(cbd_ublk_stop(u), 0);
}

static void *read_into_error(void *arg)
{
    CHECK_EQ(pread(*(int *)arg, back, 4096, 4096), -1);
    CHECK_EQ(errno, EIO);
    return NULL;
}

static void test_offline(void)
{
    struct cbd_ublk_conf conf = ublk_conf(-1);
    struct cbd_ublk *u = start_ublk(&f, &conf);
    int fd = open_device(cbd_ublk_dev_id(u), O_RDWR | O_DIRECT);
    pthread_t reader;

    CHECK(fd >= 0);
    for (unsigned i = 0; i < 3; i++) {
        TEST("offline: errors for those who wait and who come, until a rebind");
        CHECK_EQ(pread(fd, back, 4096, 0), 4096);
        silence_backend(&f);
        CHECK_EQ(pthread_create(&reader, NULL, read_into_error, &fd), 0);
        idle_sleep(100000000);
        CHECK_EQ(cbd_ublk_set_offline(u, -EIO), 0);
        pthread_join(reader, NULL);
        read_into_error(&fd);
        come_back(u);
    }
    CHECK_EQ(pread(fd, back, 4096, 0), 4096);
    close(fd);
    TEST("a device that is offline stops like any other");
    silence_backend(&f);
    CHECK_EQ(cbd_ublk_set_offline(u, -EIO), 0);
    CHECK_EQ(cbd_ublk_stop(u), 0);
}

static void test_gone(void)
{
    struct cbd_ublk_conf conf = ublk_conf(-1);
    struct cbd_ublk *u = start_ublk(&f, &conf);
    struct ublk_ctrl ctrl;
    int err = 0;

    TEST("a device that somebody else stopped takes no orders");
    CHECK_EQ(ublk_ctrl_open(&ctrl), 0);
    CHECK_EQ(ublk_ctrl_do(&ctrl, UBLK_STOP_DEV, (uint32_t)cbd_ublk_dev_id(u)), 0);
    while (!err) {
        err = cbd_ublk_set_offline(u, -EIO);
        CHECK(!err || err == -ENODEV);
    }
    next_epoch(&f);
    CHECK_EQ(cbd_ublk_rebind(u, f.conf), -ENODEV);
    ublk_ctrl_close(&ctrl);
    CHECK_EQ(cbd_ublk_stop(u), 0);
}

int main(void)
{
    need_ublk();
    back = aligned_alloc(4096, 4096);
    CHECK(back);
    fixture_memory(&f, CXL_COHERENCE_SOFTWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(&f);
    fixture_backend(&f, f.fd, 0);
    test_rebind();
    test_offline();
    test_gone();
    fixture_stop(&f);
    free(back);
    return 0;
}
