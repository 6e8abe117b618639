/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Many threads on few queues, as nbdkit calls the plugin.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"
#include "idle.h"
#include "pool.h"

#define THREADS 6U
#define PART (CAPACITY / THREADS / BLOCK * BLOCK)
#define ROUNDS 150U

static struct fixture f;
static struct pool *pool;
static atomic_bool leave;

static int sleep_or_leave(uint64_t ns)
{
    idle_sleep(ns);
    return leave ? -1 : 0;
}

static void *work(void *arg)
{
    uint64_t first = *(uint64_t *)arg, state = first + 1;
    uint8_t *model = calloc(1, PART), *buf = malloc(PART);

    CHECK(model && buf);
    CHECK_EQ(pool_run(pool, CBD_WRITE, 0, first, PART, model), 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t len = BLOCK * (1 + (uint32_t)(rng(&state) % (PART / BLOCK)));
        uint32_t off = BLOCK * (uint32_t)(rng(&state) % ((PART - len) / BLOCK + 1));

        switch (rng(&state) % 4) {
        case 0:
            fill_random(model + off, len, &state);
            CHECK_EQ(pool_run(pool, CBD_WRITE, CBD_FUA, first + off, len, model + off), 0);
            break;
        case 1:
            memset(model + off, 0, len);
            CHECK_EQ(pool_run(pool, CBD_WRITE_ZEROES, 0, first + off, len, NULL), 0);
            break;
        case 2:
            CHECK_EQ(pool_run(pool, CBD_FLUSH, 0, 0, 0, NULL), 0);
            break;
        default:
            CHECK_EQ(pool_run(pool, CBD_READ, 0, first + off, len, buf), 0);
            CHECK_EQ(memcmp(buf, model + off, len), 0);
            break;
        }
    }
    free(model);
    free(buf);
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[THREADS];
    uint64_t first[THREADS];

    TEST("many threads, requests longer than all slots together");
    CHECK(PART > DEPTH * SLOT_BYTES);
    for (uint32_t i = 0; i < THREADS; i++) {
        first[i] = i * PART;
        CHECK_EQ(pthread_create(&threads[i], NULL, work, &first[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void test_errors(void)
{
    uint8_t *buf = calloc(1, 4 * SLOT_BYTES);

    TEST("a piece that fails is the result of the whole");
    CHECK_EQ(pool_run(pool, CBD_WRITE, 0, CAPACITY - SLOT_BYTES, 4 * SLOT_BYTES, buf), -EINVAL);
    CHECK_EQ(pool_run(pool, CBD_READ, CBD_FUA, 0, 512, buf), -EINVAL);
    CHECK_EQ(pool_run(pool, CBD_READ, 0, 0, 512, buf), 0);
    free(buf);
}

static void *run_read(void *arg)
{
    uint8_t *buf = malloc(4 * SLOT_BYTES);

    (void)arg;
    CHECK_EQ(pool_run(pool, CBD_READ, 0, 0, 4 * SLOT_BYTES, buf), -ESHUTDOWN);
    free(buf); /* must not be written from here on */
    return NULL;
}

static void test_silent_backend(void)
{
    pthread_t threads[4];
    uint8_t buf[512];

    TEST("calls leave a silent backend when they are told to, and its late answers go nowhere");
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_remove(f.backend, f.conf[i].channel_off), 0);
    for (uint32_t i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, run_read, NULL), 0);
    idle_sleep(2000000);
    leave = true;
    for (uint32_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    leave = false;
    /* The handlers start at seq 1 again, which the rings have overwritten or not: the queues of this pool are of no more use. */
    pool_free(pool);
    for (uint32_t i = 0; i < CHANNELS; i++) {
        f.conf[i].epoch++;
        CHECK_EQ(cbd_backend_add(f.backend, &f.conf[i]), 0);
    }
    CHECK_EQ(pool_new(&f.mem, f.conf, CHANNELS, sleep_or_leave, &pool), 0);
    CHECK_EQ(pool_run(pool, CBD_READ, 0, 0, 512, buf), 0);
}

/* ---- changes from outside ---------------------------------------------------------------------------------------------- */

static void silence(void)
{
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_remove(f.backend, f.conf[i].channel_off), 0);
}

/* Handlers on rings that nobody used before; the queues change places. */
static void come_back(void)
{
    uint64_t first = f.conf[0].channel_off;

    f.conf[0].channel_off = f.conf[1].channel_off;
    f.conf[1].channel_off = first;
    for (uint32_t i = 0; i < CHANNELS; i++) {
        f.conf[i].epoch++;
        CHECK_EQ(cbd_backend_add(f.backend, &f.conf[i]), 0);
    }
}

static atomic_uint working;

static void *work_and_tell(void *arg)
{
    work(arg);
    working--;
    return NULL;
}

static void test_rebind_under_load(void)
{
    pthread_t threads[THREADS];
    uint64_t first[THREADS], state = 9;
    struct cbd_stats stats = {0};

    TEST("threads with verified I/O do not notice that the backend dies and comes back on other channels");
    pool_sum_stats(pool, &stats);
    working = THREADS;
    for (uint32_t i = 0; i < THREADS; i++) {
        first[i] = i * PART;
        CHECK_EQ(pthread_create(&threads[i], NULL, work_and_tell, &first[i]), 0);
    }
    while (working) {
        struct cbd_stats now = {0};

        idle_sleep(rng(&state) % 3000000);
        silence();
        idle_sleep(rng(&state) % 3000000);
        come_back();
        CHECK_EQ(pool_rebind(pool, f.conf, CHANNELS), 0);
        pool_sum_stats(pool, &now);
        CHECK(now.requests >= stats.requests);
        stats = now;
    }
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(stats.requests > THREADS * ROUNDS);
}

static void test_refused_rebind(void)
{
    struct cbd_channel_conf bad[CHANNELS];
    uint8_t buf[512];

    TEST("a rebind with one bad channel changes none");
    memcpy(bad, f.conf, sizeof(bad));
    bad[0].epoch++;
    bad[1].channel_off = f.mem.len;
    CHECK_EQ(pool_rebind(pool, bad, CHANNELS), -ERANGE);
    bad[1] = f.conf[1];
    CHECK_EQ(pool_rebind(pool, bad, CHANNELS), -EINVAL); /* where it is already */
    CHECK_EQ(pool_rebind(pool, bad, CHANNELS - 1), -EINVAL);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(pool_run(pool, CBD_READ, 0, 0, 512, buf), 0);
}

static int32_t want;

static void *run_long_read(void *arg)
{
    uint8_t *buf = malloc(PART);

    (void)arg;
    CHECK_EQ(pool_run(pool, CBD_READ, 0, 0, PART, buf), want);
    free(buf); /* must not be written from here on */
    return NULL;
}

static void start_readers(pthread_t threads[THREADS])
{
    for (uint32_t i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, run_long_read, NULL), 0);
    idle_sleep(20000000); /* most of them wait by then */
}

static void join_readers(pthread_t threads[THREADS])
{
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void test_offline(void)
{
    pthread_t threads[THREADS];
    uint8_t buf[512];

    TEST("offline: those who wait get the error, and all who come later, until a rebind");
    silence();
    want = -ENOLINK;
    start_readers(threads);
    pool_set_offline(pool, -ENOLINK);
    join_readers(threads);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(pool_run(pool, CBD_WRITE, 0, 0, 512, buf), -ENOLINK);
    come_back();
    CHECK_EQ(pool_rebind(pool, f.conf, CHANNELS), 0);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(pool_run(pool, CBD_READ, 0, 0, 512, buf), 0);
}

/* All tags of both queues belong to calls that were told to leave. */
static void fill_with_abandoned(void)
{
    pthread_t threads[CHANNELS];

    silence();
    leave = true;
    want = -ESHUTDOWN;
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, run_long_read, NULL), 0);
    for (uint32_t i = 0; i < CHANNELS; i++)
        pthread_join(threads[i], NULL);
    leave = false;
}

static void test_waiting_for_room(void)
{
    pthread_t threads[THREADS];

    TEST("calls that have nothing in flight, because others left it full, go on after a rebind");
    fill_with_abandoned();
    want = 0;
    start_readers(threads);
    come_back();
    CHECK_EQ(pool_rebind(pool, f.conf, CHANNELS), 0);
    join_readers(threads);

    TEST("and end when it goes offline");
    fill_with_abandoned();
    want = -EIO;
    start_readers(threads);
    pool_set_offline(pool, -EIO);
    join_readers(threads);
    come_back();
    CHECK_EQ(pool_rebind(pool, f.conf, CHANNELS), 0);
}

static void *run_until_enough(void *arg)
{
    uint8_t *buf = calloc(1, PART);
    uint64_t state = *(uint64_t *)arg;

    while (working) {
        uint32_t len = BLOCK * (1 + (uint32_t)(rng(&state) % (PART / BLOCK)));
        int err = pool_run(pool, rng(&state) % 2 ? CBD_READ : CBD_WRITE, 0, *(uint64_t *)arg, len, buf);

        CHECK(!err || err == -ENOLINK);
    }
    free(buf);
    return NULL;
}

static void test_offline_under_load(void)
{
    pthread_t threads[THREADS];
    uint64_t first[THREADS], state = 21;

    TEST("offline and back at any moment: every call ends, with the error or without");
    working = 1;
    for (uint32_t i = 0; i < THREADS; i++) {
        first[i] = i * PART;
        CHECK_EQ(pthread_create(&threads[i], NULL, run_until_enough, &first[i]), 0);
    }
    for (uint32_t i = 0; i < ROUNDS; i++) {
        idle_sleep(rng(&state) % 1000000);
        silence();
        if (rng(&state) % 2)
            pool_set_offline(pool, -ENOLINK);
        come_back();
        CHECK_EQ(pool_rebind(pool, f.conf, CHANNELS), 0);
    }
    working = 0;
    for (uint32_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

int main(void)
{
    memset(&f, 0, sizeof(f));
    fixture_memory(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    fixture_file(&f);
    fixture_backend(&f, f.fd, 0);
    CHECK_EQ(pool_new(&f.mem, f.conf, CHANNELS, sleep_or_leave, &pool), 0);
    test_threads();
    test_errors();
    test_silent_backend();
    test_rebind_under_load();
    test_refused_rebind();
    test_offline();
    test_waiting_for_room();
    test_offline_under_load();
    pool_free(pool);
    fixture_stop(&f);
    return 0;
}
