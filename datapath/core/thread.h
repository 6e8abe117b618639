/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef CXL_THREAD_H
#define CXL_THREAD_H

#include <pthread.h>

/* A thread of ours inside somebody else's process: it takes none of the process's signals. name: at most 15 characters.
 * Returns 0 or a negated errno. */
int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg);

/* The kernel may end a sleep 50 us late, to wake up for several at once. The calling thread has no time for that; none of
 * thread_start() has. */
void thread_wake_in_time(void);

#endif
