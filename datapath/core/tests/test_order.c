/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Orders for queues that belong to threads of their own, as those of ublk do: these sleep on the event while they have nothing
 * to do.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "fixture.h"
#include "idle.h"
#include "order.h"

#define ORDERS 500U

struct server {
    pthread_t thread;
    struct orders orders;
    struct cbd_queue *queue;
    uint64_t first; /* of its part of the device */
    atomic_bool enough;
};

struct io {
    bool busy, read;
    uint8_t value; /* in the block */
    uint8_t buf[BLOCK];
};

static struct fixture f;
static struct server servers[CHANNELS];

static void sleep_until_ordered(struct server *s)
{
    struct pollfd event = {.fd = s->orders.event, .events = POLLIN};

    CHECK_EQ(poll(&event, 1, -1), 1);
    orders_clear_event(&s->orders);
}

/* Writes and reads a block in turns. */
static void submit(struct server *s, struct io *ios, uint32_t i)
{
    struct io *io = &ios[i];
    int err;

    if (io->busy)
        return;
    io->read = !io->read;
    if (!io->read)
        memset(io->buf, ++io->value, BLOCK);
    err = cbd_queue_submit(s->queue, io->read ? CBD_READ : CBD_WRITE, 0, s->first + i * BLOCK, BLOCK, io->buf, i);
    if (err) { /* held */
        CHECK_EQ(err, -EAGAIN);
        io->value -= !io->read;
        io->read = !io->read;
        return;
    }
    io->busy = true;
}

static bool finish(struct server *s, struct io *ios)
{
    struct cbd_completion done[DEPTH];
    int n = cbd_queue_poll(s->queue, done, DEPTH);

    for (int k = 0; k < n; k++) {
        struct io *io = &ios[done[k].user];

        CHECK_EQ(done[k].result, 0);
        for (uint32_t b = 0; b < BLOCK; b++)
            CHECK_EQ(io->buf[b], io->value);
        io->busy = false;
    }
    return n;
}

static void *serve(void *arg)
{
    struct server *s = arg;
    struct io ios[DEPTH] = {0};
    uint64_t state = s->first + 4;

    while (!s->enough) {
        bool any = orders_obey(&s->orders, s->queue);

        any |= finish(s, ios);
        submit(s, ios, (uint32_t)(rng(&state) % DEPTH)); /* one at a time, so that it is seldom full */
        if (!any && !cbd_queue_in_flight(s->queue))
            sleep_until_ordered(s);
        else if (!any)
            idle_sleep(10000);
    }
    orders_close(&s->orders);
    return NULL;
}

static void silence(void)
{
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_remove(f.backend, f.conf[i].channel_off), 0);
}

/* The queues change places. */
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

static int order(uint32_t i, struct order order)
{
    return orders_give(&servers[i].orders, &order);
}

static int rebind(uint32_t i, const struct cbd_channel_conf *channel)
{
    return order(i, (struct order){.kind = ORDER_REBIND, .channel = channel});
}

static void test_rebind(void)
{
    struct cbd_channel_conf bad;
    uint64_t state = 6;

    TEST("queues that are held can change places, and verified I/O goes on");
    for (uint32_t n = 0; n < ORDERS; n++) {
        if (rng(&state) % 4 == 0)
            idle_sleep(rng(&state) % 300000);
        silence();
        come_back();
        for (uint32_t i = 0; i < CHANNELS; i++)
            CHECK_EQ(order(i, (struct order){.kind = ORDER_HOLD}), 0);
        for (uint32_t i = 0; i < CHANNELS; i++) {
            CHECK_EQ(rebind(i, &f.conf[i]), 0);
            idle_sleep(rng(&state) % 100000);
        }
    }
    TEST("the result of an order comes back");
    CHECK_EQ(rebind(0, &f.conf[0]), -EINVAL); /* it is there */
    bad = f.conf[0];
    bad.channel_off = f.mem.len;
    CHECK_EQ(rebind(0, &bad), -ERANGE);
}

/* ---- offline, and the end ---------------------------------------------------------------------------------------------- */

static int set_offline(void)
{
    return order(0, (struct order){.kind = ORDER_OFFLINE, .error = -ENOLINK});
}

/* Takes errors for what they are, and never submits. */
static void *serve_idle(void *arg)
{
    struct server *s = arg;

    while (!s->enough) {
        while (orders_obey(&s->orders, s->queue))
            ;
        CHECK_EQ(cbd_queue_submit(s->queue, CBD_FLUSH, 0, 0, 0, NULL, 0), -ENOLINK);
        sleep_until_ordered(s);
    }
    orders_close(&s->orders);
    return NULL;
}

static void *order_until_closed(void *arg)
{
    int err;

    (void)arg;
    do {
        err = set_offline();
        CHECK(!err || err == -ENODEV);
    } while (err != -ENODEV);
    return NULL;
}

static void test_end(void)
{
    pthread_t givers[2];

    TEST("two that order at the same time, while the thread ends: each is answered");
    servers[0].enough = false;
    CHECK_EQ(orders_init(&servers[0].orders), 0);
    cbd_queue_set_offline(servers[0].queue, -ENOLINK);
    CHECK_EQ(pthread_create(&servers[0].thread, NULL, serve_idle, &servers[0]), 0);
    for (uint32_t i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&givers[i], NULL, order_until_closed, NULL), 0);
    idle_sleep(1000000);
    servers[0].enough = true;
    for (uint32_t i = 0; i < 2; i++)
        pthread_join(givers[i], NULL);
    pthread_join(servers[0].thread, NULL);
    CHECK_EQ(set_offline(), -ENODEV);
    orders_free(&servers[0].orders);
}

int main(void)
{
    fixture_start(&f, CXL_COHERENCE_HARDWARE, CBD_FEATURE_DATA_CRC);
    for (uint32_t i = 0; i < CHANNELS; i++) {
        servers[i].queue = f.queue[i];
        servers[i].first = i * (CAPACITY / CHANNELS);
        CHECK_EQ(orders_init(&servers[i].orders), 0);
        CHECK_EQ(pthread_create(&servers[i].thread, NULL, serve, &servers[i]), 0);
    }
    test_rebind();
    for (uint32_t i = 0; i < CHANNELS; i++) {
        servers[i].enough = true;
        order(i, (struct order){.kind = ORDER_HOLD}); /* wakes it; carried out or not */
        pthread_join(servers[i].thread, NULL);
        orders_free(&servers[i].orders);
    }
    test_end();
    fixture_stop(&f);
    return 0;
}
