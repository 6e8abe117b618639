/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Orders of one thread for the queue of another, which sleeps on the event when it has nothing in flight, as the ublk threads do.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "fixture.h"
#include "idle.h"
#include "order.h"

#define ORDERS 1000U

static struct fixture f;
static struct orders orders;
static atomic_bool enough;

static void sleep_until_ordered(void)
{
    struct pollfd event = {.fd = orders.event, .events = POLLIN};

    CHECK_EQ(poll(&event, 1, -1), 1);
    orders_clear_event(&orders);
}

/* Requests come in bursts; between them only an order wakes the thread. */
static void *serve_queue(void *arg)
{
    struct cbd_queue *q = f.queue[0];
    static uint8_t buf[DEPTH][BLOCK];
    uint64_t state = 4;

    (void)arg;
    while (!enough) {
        struct cbd_completion done[DEPTH];
        int n = cbd_queue_poll(q, done, DEPTH);
        int err = 0;

        for (int i = 0; i < n; i++)
            CHECK(!done[i].result || done[i].result == -ENOLINK);
        if (orders_obey(&orders, q))
            continue;
        if (cbd_queue_in_flight(q)) {
            idle_sleep(10000);
            continue;
        }
        sleep_until_ordered();
        for (uint32_t i = 0; i < DEPTH && !err && rng(&state) % 4; i++)
            err = cbd_queue_submit(q, rng(&state) % 2 ? CBD_READ : CBD_WRITE, 0, BLOCK * i, BLOCK, buf[i], i);
        CHECK(!err || err == -ENOLINK);
    }
    orders_close(&orders);
    return NULL;
}

static void die_and_come_back(void)
{
    CHECK_EQ(cbd_backend_remove(f.backend, f.conf[0].channel_off), 0);
    f.conf[0].epoch++;
    CHECK_EQ(cbd_backend_add(f.backend, &f.conf[0]), 0);
}

static void test_orders(void)
{
    struct cbd_channel_conf bad;
    uint64_t state = 6;

    TEST("every order is carried out, whether the thread sleeps or is at work");
    for (uint32_t i = 0; i < ORDERS; i++) {
        if (rng(&state) % 4 == 0)
            CHECK_EQ(orders_give(&orders, NULL, -ENOLINK), 0);
        if (rng(&state) % 4 == 0)
            idle_sleep(rng(&state) % 300000);
        die_and_come_back();
        CHECK_EQ(orders_give(&orders, &f.conf[0], 0), 0);
    }
    TEST("its error comes back");
    CHECK_EQ(orders_give(&orders, &f.conf[0], 0), -EINVAL); /* it is there */
    bad = f.conf[0];
    bad.channel_off = f.mem.len;
    CHECK_EQ(orders_give(&orders, &bad, 0), -ERANGE);
}

static void *order_until_closed(void *arg)
{
    int err;

    (void)arg;
    do {
        err = orders_give(&orders, NULL, -ENOLINK);
        CHECK(!err || err == -ENODEV);
    } while (err != -ENODEV);
    return NULL;
}

static void test_end(pthread_t server)
{
    pthread_t givers[2];

    TEST("two at a time, while the thread ends: each is answered");
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&givers[i], NULL, order_until_closed, NULL), 0);
    idle_sleep(1000000);
    enough = true;
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(givers[i], NULL);
    pthread_join(server, NULL);
    CHECK_EQ(orders_give(&orders, NULL, -ENOLINK), -ENODEV);
}

int main(void)
{
    pthread_t server;

    fixture_start(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    CHECK_EQ(orders_init(&orders), 0);
    CHECK_EQ(pthread_create(&server, NULL, serve_queue, NULL), 0);
    test_orders();
    test_end(server);
    orders_free(&orders);
    fixture_stop(&f);
    return 0;
}
