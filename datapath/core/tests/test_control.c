/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands over a socket for a pool that is in use.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control.h"
#include "fixture.h"
#include "idle.h"

#define TEXT_MAX 2048U
#define FUZZ_ROUNDS 20000U
#define DEATHS 100U

static struct fixture f;
static struct pool *pool;
static struct control *control;
static int peer; /* our end */

static int sleep_for(uint64_t ns)
{
    idle_sleep(ns);
    return 0;
}

static void start_control(void)
{
    int ends[2];

    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    peer = ends[0];
    CHECK_EQ(control_start(ends[1], pool, f.conf, CHANNELS, &control), 0);
}

static const char *ask_bytes(const void *bytes, size_t len)
{
    static char answer[TEXT_MAX];
    ssize_t n;

    CHECK_EQ(send(peer, bytes, len, MSG_NOSIGNAL), len);
    n = recv(peer, answer, sizeof(answer) - 1, 0);
    CHECK(n > 0);
    answer[n] = 0;
    CHECK_EQ(strlen(answer), n);
    return answer;
}

static const char *ask(const char *command)
{
    return ask_bytes(command, strlen(command));
}

static void check_answer(const char *command, const char *want)
{
    const char *got = ask(command);

    if (strcmp(got, want)) {
        fprintf(stderr, "%s: got \"%s\", expected \"%s\"\n", command, got, want);
        exit(1);
    }
}

static const char *rebind_command(const struct cbd_channel_conf *channels, uint32_t count)
{
    static char text[TEXT_MAX];
    int n = snprintf(text, sizeof(text), "rebind");

    for (uint32_t i = 0; i < count; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, " %" PRIu64 ":%" PRIu32, channels[i].channel_off, channels[i].epoch);
    return text;
}

static int32_t read_block(void)
{
    uint8_t buf[BLOCK];

    return pool_run(pool, CBD_READ, 0, 0, BLOCK, buf);
}

static void check_works(void)
{
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(read_block(), 0);
}

static void silence(void)
{
    for (uint32_t i = 0; i < CHANNELS; i++) {
        int err = cbd_backend_remove(f.backend, f.conf[i].channel_off);

        CHECK(!err || err == -ENOENT);
    }
}

static void come_back(void)
{
    uint64_t first = f.conf[0].channel_off;

    f.conf[0].channel_off = f.conf[1].channel_off;
    f.conf[1].channel_off = first;
    for (uint32_t i = 0; i < CHANNELS; i++) {
        f.conf[i].epoch++;
        CHECK_EQ(cbd_backend_add(f.backend, &f.conf[i]), 0);
    }
    check_answer(rebind_command(f.conf, CHANNELS), "ok");
}

/* ---- commands ----------------------------------------------------------------------------------------------------------- */

static void test_commands(void)
{
    TEST("what each command does");
    check_answer("stats", "ok submitted=0 requests=0 bytes_read=0 bytes_written=0 errors=0 bad_slots=0 crc_retries=0");
    check_works();
    check_answer("stats", "ok submitted=2 requests=2 bytes_read=1024 bytes_written=0 errors=0 bad_slots=0 crc_retries=0");
    silence();
    check_answer("offline 67", "ok");
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(read_block(), -ENOLINK);
    come_back();
    check_works();
}

static void test_refused(void)
{
    static const char *const unknown[] = {"", " ", "sta", "statsx", " stats", "Stats", "stats\n", "rebin", "offlin", "ok",
                                          "offline5"};
    static const char *const no_stats[] = {"stats ", "stats 1", "stats  "};
    static const char *const no_errno[] = {"offline", "offline ", "offline x", "offline -5", "offline +5", "offline 0",
                                           "offline 11", "offline 4096", "offline 5 ", "offline 5 5", "offline  5", "offline 0x5",
                                           "offline 18446744073709551617"};
    static const char *const no_channel[] = {"rebind ", "rebind x", "rebind :", "rebind 0", "rebind 0:", "rebind :1", "rebind 0:x",
                                             "rebind 0:1x", "rebind 0:-1", "rebind 0:4294967296", "rebind  0:1", "rebind 0 :1",
                                             "rebind 18446744073709551616:1", "rebind 99999999999999999999999:1", "rebind 0:1:2",
                                             "rebind 0x0:1", "rebind 0:1,0:2"};
    static const char *const wrong_count[] = {"rebind", "rebind 0:9", "rebind 0:9 4096:9 8192:9", "rebind 0:9 4096:9 "};
    char text[TEXT_MAX];

#define ALL(commands, want) \
    for (size_t i = 0; i < sizeof(commands) / sizeof((commands)[0]); i++) \
        check_answer((commands)[i], want)
    TEST("what is not quite a command changes nothing, and the answer says what is wrong");
    ALL(unknown, "error 22 unknown command: expected rebind, offline or stats");
    ALL(no_stats, "error 22 stats: expected nothing behind it");
    ALL(no_errno, "error 22 offline: expected an errno, 1 to 4095, not 11");
    ALL(no_channel, "error 22 rebind: channel 0: expected OFFSET:EPOCH");
    check_answer("rebind 0:9 ", "error 22 rebind: channel 1: expected OFFSET:EPOCH");
    ALL(wrong_count, "error 22 rebind: expected one channel for each of 2 queues");
    check_answer("rebind 4096:9 4096:10", "error 22 rebind: channel 1: 4096 is given twice");
    check_answer("rebind 0:9 18446744073709547520:9", "error 34 rebind: a channel lies outside the memory");
    check_answer("rebind 0:9 64:9",
                 "error 22 rebind: an offset is not a multiple of 4096, or a queue is on that channel and epoch already");
    check_answer(rebind_command(f.conf, CHANNELS),
                 "error 22 rebind: an offset is not a multiple of 4096, or a queue is on that channel and epoch already");
    CHECK(!strncmp(ask_bytes("stats", 6), "error 22 ", 9)); /* a zero byte is a byte */
    check_works();

    TEST("commands that are too long");
    memset(text, '1', sizeof(text));
    CHECK(!strncmp(ask_bytes(text, 1024), "error 22 ", 9));
    CHECK(!strncmp(ask_bytes(text, 1025), "error 90 ", 9));
    CHECK(!strncmp(ask_bytes(text, sizeof(text)), "error 90 ", 9));
    check_works();
}

/* ---- under load --------------------------------------------------------------------------------------------------------- */

static atomic_bool enough;

static void *work(void *arg)
{
    uint64_t first = *(uint64_t *)arg, state = first + 1;
    static const uint32_t part = CAPACITY / CHANNELS;
    uint8_t *model = calloc(1, part), *buf = malloc(part);

    CHECK(model && buf);
    CHECK_EQ(pool_run(pool, CBD_WRITE, 0, first, part, model), 0);
    while (!enough) {
        uint32_t len = BLOCK * (1 + (uint32_t)(rng(&state) % (part / BLOCK)));
        uint32_t off = BLOCK * (uint32_t)(rng(&state) % ((part - len) / BLOCK + 1));

        if (rng(&state) % 2) {
            fill_random(model + off, len, &state);
            CHECK_EQ(pool_run(pool, CBD_WRITE, 0, first + off, len, model + off), 0);
        } else {
            CHECK_EQ(pool_run(pool, CBD_READ, 0, first + off, len, buf), 0);
            CHECK_EQ(memcmp(buf, model + off, len), 0);
        }
    }
    free(model);
    free(buf);
    return NULL;
}

static void test_load(void)
{
    pthread_t threads[CHANNELS];
    uint64_t first[CHANNELS], state = 31;

    TEST("verified I/O goes on from rebind to rebind");
    for (uint32_t i = 0; i < CHANNELS; i++) {
        first[i] = i * (CAPACITY / CHANNELS);
        CHECK_EQ(pthread_create(&threads[i], NULL, work, &first[i]), 0);
    }
    for (uint32_t i = 0; i < DEATHS; i++) {
        idle_sleep(rng(&state) % 2000000);
        silence();
        CHECK(!strncmp(ask("stats"), "ok submitted=", 13));
        come_back();
    }
    enough = true;
    for (uint32_t i = 0; i < CHANNELS; i++)
        pthread_join(threads[i], NULL);
}

/* ---- hostile ------------------------------------------------------------------------------------------------------------ */

static size_t random_command(char text[TEXT_MAX], uint64_t *state)
{
    static const char *const pieces[] = {"rebind", "offline", "stats", " ", ":", "0", "4096", "5", "-", "\n",
                                         "18446744073709551615"};
    size_t n = 0;

    if (rng(state) % 4 == 0) {
        n = 1 + rng(state) % (TEXT_MAX - 1);
        fill_random(text, n, state);
        return n;
    }
    if (rng(state) % 2)
        n = (size_t)snprintf(text, TEXT_MAX, "%s", rebind_command(f.conf, CHANNELS));
    for (uint64_t i = rng(state) % 8; i; i--)
        n += (size_t)snprintf(text + n, TEXT_MAX - n, "%s", pieces[rng(state) % (sizeof(pieces) / sizeof(pieces[0]))]);
    for (uint64_t i = rng(state) % 3; n && i; i--)
        text[rng(state) % n] = (char)rng(state);
    return n;
}

static void test_fuzz(void)
{
    char text[TEXT_MAX];
    uint64_t state = 2024, good = 0;

    TEST("random commands: an answer to each, and a pool that still works");
    silence();
    for (uint32_t i = 0; i < FUZZ_ROUNDS; i++) {
        const char *answer = ask_bytes(text, random_command(text, &state));
        bool ok = !strncmp(answer, "ok", 2);

        CHECK(ok || !strncmp(answer, "error ", 6));
        good += ok;
    }
    CHECK(good && good < FUZZ_ROUNDS / 2);
    f.conf[0].epoch = f.conf[1].epoch = 1U << 31; /* above what a random rebind can have used */
    come_back();
    check_works();
}

/* ---- ends --------------------------------------------------------------------------------------------------------------- */

static void test_ends(void)
{
    TEST("a peer that goes is no error, also in the middle of an answer");
    CHECK_EQ(send(peer, "stats", 5, 0), 5);
    close(peer);
    idle_sleep(1000000);
    control_stop(control);
    check_works();

    TEST("an end while the thread waits for a command");
    start_control();
    control_stop(control);
    CHECK_EQ(recv(peer, &(char){0}, 1, 0), 0); /* told by the end of the stream */
    close(peer);

    TEST("an end while the thread waits for a peer that does not read");
    start_control();
    while (send(peer, "stats", 5, MSG_DONTWAIT) > 0 || errno == EINTR)
        ;
    CHECK_EQ(errno, EAGAIN);
    control_stop(control);
    close(peer);
}

static void test_check(void)
{
    int ends[2], pipes[2];

    TEST("only a sequenced-packet socket is one");
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    CHECK_EQ(control_check(ends[0]), -EPROTOTYPE);
    close(ends[0]);
    CHECK_EQ(control_check(ends[0]), -EBADF);
    close(ends[1]);
    CHECK_EQ(pipe(pipes), 0);
    CHECK_EQ(control_check(pipes[0]), -ENOTSOCK);
    close(pipes[0]);
    close(pipes[1]);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends), 0);
    CHECK_EQ(control_check(ends[1]), 0);
    CHECK_EQ(control_start(ends[1], pool, f.conf, CHANNELS, &control), 0); /* it waits although the socket would not */
    idle_sleep(1000000);
    CHECK_EQ(send(ends[0], "stats", 5, 0), 5);
    CHECK_EQ(poll(&(struct pollfd){.fd = ends[0], .events = POLLIN}, 1, 60000), 1);
    control_stop(control);
    close(ends[0]);
}

int main(void)
{
    memset(&f, 0, sizeof(f));
    fixture_memory(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(&f);
    fixture_backend(&f, f.fd, 0);
    CHECK_EQ(pool_new(&f.mem, f.conf, CHANNELS, sleep_for, &pool), 0);
    start_control();
    test_commands();
    test_refused();
    test_load();
    test_fuzz();
    test_ends();
    test_check();
    pool_free(pool);
    fixture_stop(&f);
    return 0;
}
