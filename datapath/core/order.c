/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "order.h"

#include <errno.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "queue.h"

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

static int give(struct orders *orders, const struct order *order)
{
    const struct order *none = NULL;

    if (!atomic_compare_exchange_strong(&orders->waiting, &none, order))
        return -ENODEV;
    eventfd_write(orders->event, 1);
    while (sem_wait(&orders->done))
        ; /* EINTR */
    return orders->result;
}

int orders_give(struct orders *orders, const struct order *order)
{
    int result;

    pthread_mutex_lock(&orders->giving);
    result = give(orders, order);
    pthread_mutex_unlock(&orders->giving);
    return result;
}

void orders_clear_event(struct orders *orders)
{
    eventfd_t ignored;

    eventfd_read(orders->event, &ignored);
}

static void answer(struct orders *orders, int result)
{
    orders->result = result;
    sem_post(&orders->done);
}

static int carry_out(const struct order *order, struct cbd_queue *queue)
{
    switch (order->kind) {
    case ORDER_HOLD:
        cbd_queue_hold(queue);
        break;
    case ORDER_REBIND:
        return cbd_queue_rebind(queue, order->channel);
    case ORDER_OFFLINE:
        cbd_queue_set_offline(queue, order->error);
        break;
    }
    return 0;
}

bool orders_obey(struct orders *orders, struct cbd_queue *queue)
{
    if (!atomic_load_explicit(&orders->waiting, memory_order_relaxed))
        return false;
    answer(orders, carry_out(atomic_exchange(&orders->waiting, NULL), queue));
    return true;
}

void orders_close(struct orders *orders)
{
    if (atomic_exchange(&orders->waiting, &orders->closed))
        answer(orders, -ENODEV);
}
