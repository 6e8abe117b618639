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

struct order {
    const struct cbd_channel_conf *channel; /* to move to; NULL: offline */
    int32_t error;                          /* ... with this */
    int result;
};

struct orders {
    pthread_mutex_t giving; /* one at a time */
    int event; /* eventfd, readable while an order may be waiting */
    _Atomic(struct order *) waiting;
    struct order closed; /* stands in the place of an order when none is taken any more */
    sem_t done;
};

/* 0 or a negated errno. */
int orders_init(struct orders *orders);
void orders_free(struct orders *orders);

/* Any thread: returns the result when the order was carried out, -ENODEV when none is taken any more. */
int orders_give(struct orders *orders, const struct cbd_channel_conf *channel, int32_t error);

/* The queue's thread: the event was seen. To be called before orders_obey(), so that no order is left behind. */
void orders_clear_event(struct orders *orders);
/* Carries out what is waiting; whether there was anything. Cheap when there is nothing. */
bool orders_obey(struct orders *orders, struct cbd_queue *queue);
/* The last act of the thread: what waits, and all that comes, is answered with -ENODEV. */
void orders_close(struct orders *orders);

#endif
