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
    pool_free(pool);
    fixture_stop(&f);
    return 0;
}
