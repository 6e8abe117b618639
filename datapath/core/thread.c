/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#define STACK (1U << 20) /* more than enough; a process that serves swap keeps all of it in memory */

struct start {
    void *(*run)(void *);
    void *arg;
};

void thread_wake_in_time(void)
{
    prctl(PR_SET_TIMERSLACK, 1UL);
}

static void *start(void *arg)
{
    struct start start = *(struct start *)arg;

    free(arg);
    thread_wake_in_time();
    return start.run(start.arg);
}

int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT};
    struct start *what = malloc(sizeof(*what));
    sigset_t blocked, before;
    pthread_attr_t attr;
    int err;

    if (!what)
        return -ENOMEM;
    *what = (struct start){run, arg};

    /* With SIGXFSZ blocked a write beyond the file size limit is an error of the request instead of the end of the process. */
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++)
        sigdelset(&blocked, faults[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    err = pthread_create(thread, &attr, start, what);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err)
        free(what);
    else
        pthread_setname_np(*thread, name);
    return -err;
}
