/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Only the thread of a queue touches the queue. What another thread wants of it is an order that it leaves here, and an event that
 * wakes the thread wherever it waits.
 */
#ifndef CXL_ORDER_H
#define CXL_ORDER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cxl_core.h"

enum order_kind { ORDER_HOLD, ORDER_REBIND, ORDER_OFFLINE }; /* cbd_queue_hold(), _rebind(), _set_offline() */

struct order {
    enum order_kind kind;
    const struct cbd_channel_conf *channel; /* ORDER_REBIND */
    int32_t error;                          /* ORDER_OFFLINE */
};

struct orders {
    pthread_mutex_t giving; /* one at a time */
    int event;              /* eventfd, readable while an order may be waiting */
    _Atomic(const struct order *) waiting;
    struct order closed; /* stands in the place of an order when none is taken any more */
    int result;
    sem_t done;
};

/* 0 or a negated errno. */
int orders_init(struct orders *orders);
void orders_free(struct orders *orders);

/* Any thread: returns the result when the order was carried out, -ENODEV when none is taken any more. */
int orders_give(struct orders *orders, const struct order *order);

/* The queue's thread: the event was seen. To be called before orders_obey(), so that no order is left behind. */
void orders_clear_event(struct orders *orders);
/* Carries out what is waiting; whether there was anything. Cheap when there is nothing. */
bool orders_obey(struct orders *orders, struct cbd_queue *queue);
/* The last act of the thread: what waits, and all that comes, is answered with -ENODEV. */
void orders_close(struct orders *orders);

#endif
