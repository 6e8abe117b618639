/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "order.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

int orders_init(struct orders *orders)
{
    *orders = (struct orders){.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    if (orders->event < 0)
        return -errno;
    pthread_mutex_init(&orders->giving, NULL);
    sem_init(&orders->done, 0, 0);
    return 0;
}

void orders_free(struct orders *orders)
{
    close(orders->event);
    pthread_mutex_destroy(&orders->giving);
    sem_destroy(&orders->done);
}

static int give(struct orders *orders, struct order *order)
{
    struct order *none = NULL;

    if (!atomic_compare_exchange_strong(&orders->waiting, &none, order))
        return -ENODEV;
    eventfd_write(orders->event, 1);
    while (sem_wait(&orders->done))
        ; /* EINTR */
    return order->result;
}

int orders_give(struct orders *orders, const struct cbd_channel_conf *channel, int32_t error)
{
    struct order order = {.channel = channel, .error = error};
    int result;

    pthread_mutex_lock(&orders->giving);
    result = give(orders, &order);
    pthread_mutex_unlock(&orders->giving);
    return result;
}

void orders_clear_event(struct orders *orders)
{
    eventfd_t ignored;

    eventfd_read(orders->event, &ignored);
}

static void answer(struct orders *orders, struct order *order, int result)
{
    order->result = result;
    sem_post(&orders->done);
}

bool orders_obey(struct orders *orders, struct cbd_queue *queue)
{
    struct order *order;
    int err = 0;

    if (!atomic_load_explicit(&orders->waiting, memory_order_relaxed))
        return false;
    order = atomic_exchange(&orders->waiting, NULL);
    if (order->channel)
        err = cbd_queue_rebind(queue, order->channel);
    else
        cbd_queue_set_offline(queue, order->error);
    answer(orders, order, err);
    return true;
}

void orders_close(struct orders *orders)
{
    struct order *order = atomic_exchange(&orders->waiting, &orders->closed);

    if (order)
        answer(orders, order, -ENODEV);
}
