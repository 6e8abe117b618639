/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The ublk front end on the real driver: the life of a device, and its recovery by another server.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "idle.h"
#include "ublk_device.h"

#define BIG (16U * SLOT_BYTES)
#define RECOVERED_ID 7

static struct fixture f;
static uint8_t *data, *back;
static uint64_t state = 77;

static void read_queue_file(int dev_id, const char *name, char *text, size_t len)
{
    char path[80];
    int fd;
    ssize_t n;

    snprintf(path, sizeof(path), "/sys/block/ublkb%d/queue/%s", dev_id, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    n = read(fd, text, len - 1);
    CHECK(n > 0);
    text[n - 1] = 0; /* the newline */
    close(fd);
}

static void check_queue_number(int dev_id, const char *name, long want)
{
    char text[32];

    read_queue_file(dev_id, name, text, sizeof(text));
    CHECK_EQ(atol(text), want);
}

static void check_backing(uint64_t off, uint32_t len, const uint8_t *want)
{
    uint8_t *got = malloc(len);

    CHECK_EQ(pread(f.fd, got, len, (off_t)off), len);
    CHECK_EQ(memcmp(got, want, len), 0);
    free(got);
}

static void test_shape(int id)
{
    char text[32];
    uint64_t size = 0;
    int fd = open_device(id, O_RDONLY), block = 0;

    TEST("size, blocks, cache");
    CHECK(fd >= 0);
    CHECK_EQ(ioctl(fd, BLKGETSIZE64, &size), 0);
    CHECK_EQ(size, CAPACITY);
    CHECK_EQ(ioctl(fd, BLKSSZGET, &block), 0);
    CHECK_EQ(block, BLOCK);
    close(fd);
    read_queue_file(id, "write_cache", text, sizeof(text));
    CHECK(!strcmp(text, "write back"));
    read_queue_file(id, "fua", text, sizeof(text));
    CHECK(!strcmp(text, "1"));
    check_queue_number(id, "max_hw_sectors_kb", SLOT_BYTES / 1024);
    check_queue_number(id, "physical_block_size", PHYSICAL);
    check_queue_number(id, "minimum_io_size", PHYSICAL);
    check_queue_number(id, "discard_granularity", GRANULARITY);
}

static void test_io(int id)
{
    uint64_t range[2] = {GRANULARITY, GRANULARITY};
    int fd = open_device(id, O_RDWR | O_DIRECT | O_DSYNC);

    TEST("reads and writes, larger than a slot too");
    CHECK(fd >= 0);
    for (unsigned i = 0; i < 300; i++) {
        uint32_t len = BLOCK * (1 + (uint32_t)(rng(&state) % (BIG / BLOCK)));
        off_t off = (off_t)(BLOCK * (rng(&state) % ((CAPACITY - len) / BLOCK + 1)));

        fill_random(data, len, &state);
        CHECK_EQ(pwrite(fd, data, len, off), len);
        check_backing((uint64_t)off, len, data);
        CHECK_EQ(pread(fd, back, len, off), len);
        CHECK_EQ(memcmp(data, back, len), 0);
    }
    TEST("flush, discard, write-zeroes");
    CHECK_EQ(fsync(fd), 0);
    memset(data, 0xaa, BIG);
    CHECK_EQ(pwrite(fd, data, BIG, 0), BIG);
    CHECK_EQ(ioctl(fd, BLKDISCARD, range), 0);
    range[0] = 65536;
    CHECK_EQ(ioctl(fd, BLKZEROOUT, range), 0);
    memset(data + GRANULARITY, 0, GRANULARITY);
    memset(data + 65536, 0, GRANULARITY);
    check_backing(0, BIG, data);
    close(fd);
}

static void test_busy(struct cbd_ublk *u, int id)
{
    int fd = open_device(id, O_RDONLY | O_EXCL | O_DIRECT);

    TEST("a device in use is not stopped, and goes on");
    CHECK(fd >= 0);
    CHECK_EQ(cbd_ublk_stop(u), -EBUSY);
    CHECK_EQ(pread(fd, back, 4096, 0), 4096);
    close(fd);
}

/* Of all queues. */
static void sum_stats(struct cbd_ublk *u, struct cbd_stats *sum)
{
    *sum = (struct cbd_stats){0};
    for (uint32_t i = 0; i < CHANNELS; i++) {
        struct cbd_stats one;

        cbd_ublk_stats(u, i, &one);
        CHECK_EQ(one.submitted, one.requests);
        sum->requests += one.requests;
        sum->bytes_written += one.bytes_written;
        sum->bytes_read += one.bytes_read;
        sum->errors += one.errors;
        sum->bad_slots += one.bad_slots;
        sum->crc_retries += one.crc_retries;
    }
}

static void test_life(void)
{
    struct cbd_ublk_conf conf = ublk_conf(-1);
    struct cbd_ublk *u = start_ublk(&f, &conf);
    int id = cbd_ublk_dev_id(u);
    struct cbd_stats stats;

    CHECK(id >= 0);
    test_shape(id);
    test_io(id);
    test_busy(u, id);
    sum_stats(u, &stats);
    CHECK(stats.requests > 600 && stats.bytes_written && stats.bytes_read);
    CHECK_EQ(stats.errors + stats.bad_slots + stats.crc_retries, 0);
    cbd_ublk_stats(u, CHANNELS, &stats);
    CHECK_EQ(stats.submitted + stats.requests, 0);
    TEST("stop, and again from the beginning with the same number");
    CHECK_EQ(cbd_ublk_stop(u), 0);
    CHECK(open_device(id, O_RDONLY) < 0);
    conf.dev_id = id;
    for (unsigned i = 0; i < 5; i++) {
        u = start_ublk(&f, &conf);
        CHECK_EQ(cbd_ublk_dev_id(u), id);
        CHECK_EQ(cbd_ublk_stop(u), 0);
    }
}

static void test_read_only(void)
{
    struct cbd_ublk_conf conf = ublk_conf(-1);
    struct cbd_ublk *u;
    int fd, ro = 0;

    TEST("read-only");
    conf.read_only = 1;
    u = start_ublk(&f, &conf);
    fd = open_device(cbd_ublk_dev_id(u), O_RDONLY);
    CHECK_EQ(ioctl(fd, BLKROGET, &ro), 0);
    CHECK_EQ(ro, 1);
    close(fd);
    CHECK_EQ(cbd_ublk_stop(u), 0);
}

static void test_silent_at_start(void)
{
    struct cbd_ublk_conf conf = ublk_conf(3);
    struct cbd_ublk *u = NULL;

    TEST("a backend that is silent at the start: an error, and no device remains");
    next_epoch(&f);
    silence_backend(&f);
    CHECK_EQ(cbd_ublk_start(&f.mem, f.conf, &conf, &u), -ETIMEDOUT);
    CHECK(open_device(3, O_RDONLY) < 0);
    u = start_ublk(&f, &conf);
    CHECK_EQ(cbd_ublk_dev_id(u), 3);
    CHECK_EQ(cbd_ublk_stop(u), 0);
}

static void *read_into_error(void *arg)
{
    CHECK_EQ(pread(*(int *)arg, back, 4096, 4096), -1);
    CHECK_EQ(errno, EIO);
    return NULL;
}

static void test_silent_at_stop(void)
{
    struct cbd_ublk_conf conf = ublk_conf(-1);
    struct cbd_ublk *u = start_ublk(&f, &conf);
    int fd = open_device(cbd_ublk_dev_id(u), O_RDONLY | O_DIRECT);
    pthread_t reader;

    TEST("a backend that is silent at the stop: errors for those who wait, never a hang");
    CHECK(fd >= 0);
    CHECK_EQ(pread(fd, back, 4096, 0), 4096);
    silence_backend(&f);
    CHECK_EQ(pthread_create(&reader, NULL, read_into_error, &fd), 0);
    idle_sleep(300000000);
    CHECK_EQ(cbd_ublk_stop(u), 0);
    pthread_join(reader, NULL);
    close(fd);

    TEST("the same while the kernel still reads the partition table");
    u = start_ublk(&f, &conf);
    silence_backend(&f);
    CHECK_EQ(cbd_ublk_stop(u), 0);
}

static void test_bad_configuration(void)
{
    struct cbd_ublk_conf conf;
    struct cbd_ublk *u;

    TEST("block sizes that no device has");
#define BAD(field, value) \
    conf = ublk_conf(-1); \
    conf.field = (value); \
    CHECK_EQ(cbd_ublk_start(&f.mem, f.conf, &conf, &u), -EINVAL)
    BAD(logical_block_size, 1024);
    BAD(physical_block_size, 0);
    BAD(physical_block_size, 256);
    BAD(physical_block_size, 4096 + 512);
    BAD(physical_block_size, 131072);
    BAD(discard_granularity, 0);
}

/* ---- recovery: the servers are processes of their own, forked before there are threads ---- */

struct server {
    pid_t pid;
    int command, answer; /* pipes: a configuration of channels in, the result of the start out; closing command stops */
};

static void serve(int command, int answer, uint32_t physical_block_size)
{
    struct cbd_ublk_conf conf = ublk_conf(RECOVERED_ID);
    struct cbd_ublk *u = NULL;
    int err;

    conf.physical_block_size = physical_block_size;
    if (read(command, f.conf, sizeof(f.conf)) != sizeof(f.conf))
        _exit(0);
    err = cbd_ublk_start(&f.mem, f.conf, &conf, &u);
    if (write(answer, &err, sizeof(err)) != sizeof(err) || err)
        _exit(1);
    while (read(command, &err, sizeof(err)) > 0)
        ;
    _exit(cbd_ublk_stop(u) ? 1 : 0);
}

static struct server fork_server(uint32_t physical_block_size)
{
    int command[2], answer[2];
    struct server s;

    CHECK_EQ(pipe2(command, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(answer, O_CLOEXEC), 0);
    s = (struct server){.pid = fork(), .command = command[1], .answer = answer[0]};
    CHECK(s.pid >= 0);
    if (!s.pid) {
        close(command[1]);
        close(answer[0]);
        serve(command[0], answer[1], physical_block_size);
    }
    close(command[0]);
    close(answer[1]);
    return s;
}

static int server_start(const struct server *s)
{
    int err = 1;

    CHECK_EQ(write(s->command, f.conf, sizeof(f.conf)), sizeof(f.conf));
    CHECK_EQ(read(s->answer, &err, sizeof(err)), sizeof(err));
    return err;
}

static atomic_bool enough;
static atomic_uint rounds;

/* Writes and reads back without a pause, right through the death of the server. */
static void *verify_forever(void *arg)
{
    int fd = open_device(RECOVERED_ID, O_RDWR | O_DIRECT);
    uint64_t own = 123;

    (void)arg;
    CHECK(fd >= 0);
    while (!enough) {
        off_t off = (off_t)(SLOT_BYTES * (rng(&own) % (CAPACITY / SLOT_BYTES)));

        fill_random(data, SLOT_BYTES, &own);
        CHECK_EQ(pwrite(fd, data, SLOT_BYTES, off), SLOT_BYTES);
        CHECK_EQ(pread(fd, back, SLOT_BYTES, off), SLOT_BYTES);
        CHECK_EQ(memcmp(data, back, SLOT_BYTES), 0);
        rounds++;
    }
    close(fd);
    return NULL;
}

static void await_rounds(unsigned more)
{
    unsigned until = rounds + more;

    while (rounds < until)
        idle_sleep(1000000);
}

static void test_recovery(struct server *servers, unsigned count)
{
    pthread_t writer;
    int status;

    TEST("kill -9 of the server under a verifying writer loses nothing");
    next_epoch(&f);
    CHECK_EQ(server_start(&servers[0]), 0);
    CHECK_EQ(pthread_create(&writer, NULL, verify_forever, NULL), 0);
    for (unsigned i = 1; i < count; i++) {
        await_rounds(20);
        CHECK_EQ(kill(servers[i - 1].pid, SIGKILL), 0);
        CHECK_EQ(waitpid(servers[i - 1].pid, &status, 0), servers[i - 1].pid);
        next_epoch(&f);
        CHECK_EQ(server_start(&servers[i]), 0);
    }
    await_rounds(20);
    TEST("a living server keeps its device");
    struct cbd_ublk_conf conf = ublk_conf(RECOVERED_ID);
    struct cbd_ublk *u;

    CHECK_EQ(cbd_ublk_start(&f.mem, f.conf, &conf, &u), -EBUSY);
    conf.capacity *= 2;
    CHECK_EQ(cbd_ublk_start(&f.mem, f.conf, &conf, &u), -EEXIST);
    await_rounds(20);
    enough = true;
    pthread_join(writer, NULL);
    close(servers[count - 1].command);
    CHECK_EQ(waitpid(servers[count - 1].pid, &status, 0), servers[count - 1].pid);
    CHECK_EQ(status, 0);
}

int main(void)
{
    struct server servers[4];

    need_ublk();
    data = aligned_alloc(4096, BIG);
    back = aligned_alloc(4096, BIG);
    CHECK(data && back);
    fixture_memory(&f, CXL_COHERENCE_SOFTWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(&f);
    for (unsigned i = 0; i < 4; i++)
        servers[i] = fork_server(i % 2 ? BLOCK : PHYSICAL); /* the hint of another medium */
    fixture_backend(&f, f.fd, 0);
    test_life();
    test_read_only();
    test_silent_at_start();
    test_silent_at_stop();
    test_bad_configuration();
    test_recovery(servers, 4);
    fixture_stop(&f);
    free(data);
    free(back);
    return 0;
}
