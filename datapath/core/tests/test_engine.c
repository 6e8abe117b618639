/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Many requests in flight. The device is a pipe that is open for both directions: a read stays in flight until somebody writes, so
 * that the test decides what overlaps with what.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"
#include "fixture.h"
#include "idle.h"

static struct fixture f;
static struct hand hand;
static int pipe_fd;

static void start(void)
{
    int ends[2];
    char path[32];

    CHECK_EQ(pipe2(ends, O_CLOEXEC), 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", ends[0]);
    pipe_fd = open(path, O_RDWR | O_CLOEXEC);
    CHECK(pipe_fd >= 0);
    close(ends[0]);
    close(ends[1]);
    f = (struct fixture){.engine = CBD_ENGINE_URING};
    fixture_memory(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_backend(&f, pipe_fd, 0);
    CHECK_EQ(cbd_queue_new(&f.mem, &f.conf[0], &f.queue[0]), 0);
    hand_init(&hand, &f);
}

static void stop(void)
{
    fixture_stop(&f);
    close(pipe_fd);
}

static struct cbd_completion wait_one(void)
{
    struct cbd_completion done;

    CHECK_EQ(cbd_queue_wait(f.queue[0], &done, 1, WAIT_US), 1);
    return done;
}

static void test_order(void)
{
    uint8_t in[512], out[512];
    struct cbd_completion done;

    TEST("what is submitted later may end earlier");
    start();
    memset(out, 0x5a, sizeof(out));
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, 0, 0, sizeof(in), in, 1), 0);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_FLUSH, 0, 0, 0, NULL, 2), 0);
    done = wait_one();
    CHECK_EQ(done.user, 2);
    CHECK_EQ(done.result, -EINVAL); /* of a pipe */
    CHECK_EQ(write(pipe_fd, out, sizeof(out)), sizeof(out));
    done = wait_one();
    CHECK_EQ(done.user, 1);
    CHECK_EQ(done.result, 0);
    CHECK_EQ(memcmp(in, out, sizeof(in)), 0);
    stop();
}

static void test_depth(void)
{
    static uint8_t in[DEPTH - 1][512], out[DEPTH - 1][512];
    bool seen[DEPTH - 1] = {false};

    TEST("the whole depth is in flight at once");
    start();
    for (uint32_t i = 0; i < DEPTH - 1; i++) {
        memset(out[i], (int)i + 1, sizeof(out[i]));
        CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, 0, i * 512, 512, in[i], i), 0);
    }
    /* The last request gives all the others what they wait for. */
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_WRITE, 0, 0, sizeof(out), out, DEPTH), 0);
    for (uint32_t i = 0; i < DEPTH; i++)
        CHECK_EQ(wait_one().result, 0);
    for (uint32_t i = 0; i < DEPTH - 1; i++) {
        uint8_t which = in[i][0];

        CHECK(which >= 1 && which < DEPTH && !seen[which - 1]);
        CHECK_EQ(memcmp(in[i], out[which - 1], 512), 0);
        seen[which - 1] = true;
    }
    stop();
}

static void *remove_channel(void *arg)
{
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

static void test_stop(void)
{
    uint8_t in[2][512], out[1024] = {1, 2, 3};
    atomic_bool removed = false;
    pthread_t thread;

    TEST("stopping waits for what is in flight and answers it");
    start();
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_READ, 0, 0, 512, in[i], i), 0);
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_FLUSH, 0, 0, 0, NULL, 2), 0);
    CHECK_EQ(wait_one().user, 2); /* hence the reads were taken */
    CHECK_EQ(pthread_create(&thread, NULL, remove_channel, &removed), 0);
    idle_sleep(20000000);
    CHECK(!atomic_load(&removed));
    CHECK_EQ(write(pipe_fd, out, sizeof(out)), sizeof(out));
    CHECK_EQ(wait_one().result, 0);
    CHECK_EQ(wait_one().result, 0);
    pthread_join(thread, NULL);
    CHECK_EQ(in[0][0] + in[1][0], 1); /* one of them got the first half */
    stop();
}

/* ---- a blkdev that uses a tag twice ---- */

static void submit_read(uint16_t tag)
{
    struct cbd_slot s = {.op = CBD_READ,
                         .tag = tag,
                         .tid = hand.submissions.seq + 1,
                         .len = 512,
                         .credit = (uint32_t)hand.completions.seq};

    ring_produce(&hand.submissions, &s);
}

static void check_answer(uint64_t tid, int32_t result)
{
    struct cbd_slot done;

    hand_consume(&hand.completions, &done);
    CHECK_EQ(done.tid, tid);
    CHECK_EQ(done.result, result);
}

static void test_tag_twice(void)
{
    uint8_t out[512] = {9};
    uint64_t bad;

    TEST("a tag in flight is refused, and free again once it is answered");
    start();
    bad = backend_stats(&f).bad_slots;
    submit_read(3);
    submit_read(3);
    check_answer(2, -EINVAL);
    CHECK_EQ(backend_stats(&f).bad_slots, bad + 1);
    CHECK_EQ(write(pipe_fd, out, sizeof(out)), sizeof(out));
    check_answer(1, 0);
    submit_read(3);
    CHECK_EQ(write(pipe_fd, out, sizeof(out)), sizeof(out));
    check_answer(3, 0);
    CHECK_EQ(backend_stats(&f).bad_slots, bad + 1);
    stop();
}

static void wait_for_requests(uint64_t count)
{
    uint64_t start_ns = idle_now_ns();

    while (backend_stats(&f).requests < count) {
        CHECK(idle_now_ns() - start_ns < WAIT_US * 1000);
        idle_sleep(20000);
    }
}

static void test_more_than_the_depth(void)
{
    static uint8_t out[DEPTH * 512];

    TEST("one more than the depth is not taken before something ended");
    start();
    for (uint16_t tag = 0; tag < DEPTH - 1; tag++)
        submit_read(tag);
    submit_read(DEPTH);
    check_answer(DEPTH, -EINVAL); /* hence those before it are in flight, and their slots are free */
    submit_read(DEPTH - 1);
    submit_read(0);
    idle_sleep(20000000);
    CHECK_EQ(backend_stats(&f).requests, 1);
    CHECK_EQ(write(pipe_fd, out, sizeof(out)), sizeof(out));
    wait_for_requests(DEPTH + 2); /* more answers than the ring holds: it is the blkdev's own loss */
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0); /* and every counter is final */
    CHECK_EQ(backend_stats(&f).errors, 2);
    CHECK_EQ(backend_stats(&f).bad_slots, 2);
    CHECK_EQ(backend_stats(&f).bytes_read, sizeof(out));
    stop();
}

/* ---- a kernel without io_uring ---- */

/* Runs child in a process whose calls of this number fail with this errno (its own, because a filter is for life). */
static void with_failing_call(uint32_t number, uint32_t error, void (*child)(void))
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    int status;
    pid_t pid = fork();

    CHECK(pid >= 0);
    if (!pid) {
        CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        CHECK_EQ(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
        child();
        exit(0);
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

static int new_backend(enum cbd_engine wanted, uint32_t *got)
{
    struct cbd_backend_conf conf = {.fd = STDIN_FILENO, .logical_block_size = BLOCK, .capacity = CAPACITY, .engine = wanted};
    uint8_t line[CBD_LINE] __attribute__((aligned(CBD_LINE)));
    struct cxl_mem mem = {.base = line, .len = sizeof(line)};
    struct cbd_backend *be;
    int err = cbd_backend_new(&mem, &conf, &be);

    if (!err) {
        *got = cbd_backend_engine(be);
        cbd_backend_free(be);
    }
    return err;
}

static void check_refused(void)
{
    uint32_t got = 0;

    CHECK_EQ(new_backend(CBD_ENGINE_URING, &got), -EPERM);
    CHECK_EQ(new_backend(CBD_ENGINE_AUTO, &got), 0);
    CHECK_EQ(got, CBD_ENGINE_SYNC);
}

static void test_choice(void)
{
    uint32_t got = 0;

    TEST("the engine is the one asked for, or the best that the kernel allows");
    with_failing_call(SYS_io_uring_setup, EPERM, check_refused);
    CHECK_EQ(new_backend(CBD_ENGINE_SYNC, &got), 0);
    CHECK_EQ(got, CBD_ENGINE_SYNC);
    if (!engine_works(CBD_ENGINE_URING))
        SKIP("the kernel refuses io_uring here, so that engine was not tested");
    CHECK_EQ(new_backend(CBD_ENGINE_AUTO, &got), 0);
    CHECK_EQ(got, CBD_ENGINE_URING);
}

/* Steps wait on our side of the ring; the fence must reach them there. */
static void check_unsubmitted(void)
{
    struct cbd_completion done;
    uint8_t out[512] = {7}, in[512];
    uint64_t start_ns = idle_now_ns();

    start();
    CHECK_EQ(cbd_queue_submit(f.queue[0], CBD_WRITE, 0, 0, sizeof(out), out, 0), 0);
    CHECK_EQ(cbd_queue_wait(f.queue[0], &done, 1, 20000), 0);
    raise_fence(&f, HOST_EPOCH);
    while (!cbd_backend_fenced(f.backend)) {
        CHECK(idle_now_ns() - start_ns < WAIT_US * 1000);
        idle_sleep(20000);
    }
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0);
    CHECK_EQ(cbd_queue_poll(f.queue[0], &done, 1), 0);
    CHECK_EQ(fcntl(pipe_fd, F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(read(pipe_fd, in, sizeof(in)), -1);
    stop();
}

static void test_kernel_that_takes_nothing(void)
{
    TEST("what the kernel has no memory for is neither performed nor answered behind the fence");
    with_failing_call(SYS_io_uring_enter, EAGAIN, check_unsubmitted);
}

/* What is moved between two looks around should still be near when it is answered, and its peer can begin with it. */
static void test_inline_batch(void)
{
    static uint8_t buf[1 << 16];
    struct device dev = {.fd = open("/dev/zero", O_RDONLY | O_CLOEXEC), .logical_block_size = BLOCK, .capacity = CAPACITY};
    struct step small = {.kind = STEP_READ, .buf = buf, .len = 4096}, large = {.kind = STEP_READ, .buf = buf, .len = sizeof(buf)};
    struct ended ended[DEPTH];
    struct engine *e;

    TEST("inline, small requests are taken together, and large ones alone");
    CHECK_EQ(engine_new(&dev, CBD_ENGINE_INLINE, DEPTH, &e), 0);
    engine_start(e, 0, &small);
    CHECK(engine_has_room(e, 1));
    engine_start(e, 1, &large);
    CHECK(!engine_has_room(e, 2));
    engine_submit(e);
    CHECK(engine_has_room(e, 2));
    CHECK_EQ(engine_reap(e, ended, DEPTH), 2);
    engine_start(e, 0, &large);
    engine_abandon(e);
    CHECK(engine_has_room(e, 0));
    engine_free(e);
    close(dev.fd);
}

int main(void)
{
    test_choice();
    test_inline_batch();
    test_kernel_that_takes_nothing();
    test_order();
    test_depth();
    test_stop();
    test_tag_twice();
    test_more_than_the_depth();
    return 0;
}
