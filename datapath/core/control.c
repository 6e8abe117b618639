/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "queue.h"
#include "thread.h"

#define COMMAND_MAX 1024U /* a rebind of CBD_MAX_QUEUES takes about half of it */
#define ANSWER_MAX 256U   /* room for all counters */

struct control {
    int fd;
    struct pool *pool;
    uint32_t count;
    struct cbd_channel_conf like; /* all but offset and epoch */
    pthread_t thread;
};

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

/* What is left of a command; any byte may be in it. */
struct text {
    const char *at, *end;
};

static bool take_char(struct text *t, char c)
{
    if (t->at == t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

static bool at_word_end(const struct text *t)
{
    return t->at == t->end || *t->at == ' ';
}

static bool take_word(struct text *t, const char *word)
{
    struct text rest = *t;

    while (*word && take_char(&rest, *word))
        word++;
    if (*word || !at_word_end(&rest))
        return false;
    *t = rest;
    return true;
}

static bool take_number(struct text *t, uint64_t max, uint64_t *out)
{
    const char *first = t->at;

    for (*out = 0; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++) {
        uint64_t digit = (uint64_t)(*t->at - '0');

        if (digit > max || *out > (max - digit) / 10)
            return false;
        *out = *out * 10 + digit;
    }
    return t->at > first;
}

static bool take_channel(struct text *t, struct cbd_channel_conf *channel)
{
    uint64_t epoch;

    if (!take_char(t, ' ') || !take_number(t, UINT64_MAX, &channel->channel_off) || !take_char(t, ':') ||
        !take_number(t, UINT32_MAX, &epoch) || !at_word_end(t))
        return false;
    channel->epoch = (uint32_t)epoch;
    return true;
}

/* ---- commands ----------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void say(char answer[ANSWER_MAX], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(answer, ANSWER_MAX, format, args);
    va_end(args);
}

static void do_rebind(const struct control *c, struct text t, char answer[ANSWER_MAX])
{
    struct cbd_channel_conf channels[CBD_MAX_QUEUES];
    uint32_t n, twice;
    int err;

    for (n = 0; n < c->count && t.at < t.end; n++) {
        channels[n] = c->like;
        if (!take_channel(&t, &channels[n])) {
            say(answer, "error %d rebind: channel %u: expected OFFSET:EPOCH", EINVAL, n);
            return;
        }
    }
    if (n < c->count || t.at < t.end) {
        say(answer, "error %d rebind: expected one channel for each of %u queues", EINVAL, c->count);
        return;
    }
    twice = cbd_channels_twice(channels, n);
    if (twice < n) {
        say(answer, "error %d rebind: channel %u: %" PRIu64 " is given twice", EINVAL, twice, channels[twice].channel_off);
        return;
    }
    err = pool_rebind(c->pool, channels, n);
    if (err == -ERANGE)
        say(answer, "error %d rebind: a channel lies outside the memory", ERANGE);
    else if (err)
        say(answer, "error %d rebind: an offset is not a multiple of %u, or a queue is on that channel and epoch already", -err,
            CBD_PAGE);
}

static void do_offline(const struct control *c, struct text t, char answer[ANSWER_MAX])
{
    uint64_t error;

    if (!take_char(&t, ' ') || !take_number(&t, CBD_MAX_ERRNO, &error) || t.at < t.end || !cbd_queue_error_ok(-(int32_t)error))
        say(answer, "error %d offline: expected an errno, 1 to %d, not %d", EINVAL, CBD_MAX_ERRNO, EAGAIN);
    else
        pool_set_offline(c->pool, -(int32_t)error);
}

static void do_stats(const struct control *c, struct text t, char answer[ANSWER_MAX])
{
    struct cbd_stats s = {0};

    if (t.at < t.end) {
        say(answer, "error %d stats: expected nothing behind it", EINVAL);
        return;
    }
    pool_sum_stats(c->pool, &s);
    say(answer,
        "ok submitted=%" PRIu64 " requests=%" PRIu64 " bytes_read=%" PRIu64 " bytes_written=%" PRIu64 " errors=%" PRIu64 " bad_slots=%" PRIu64
        " crc_retries=%" PRIu64,
        s.submitted, s.requests, s.bytes_read, s.bytes_written, s.errors, s.bad_slots, s.crc_retries);
}

static void carry_out(const struct control *c, struct text t, char answer[ANSWER_MAX])
{
    say(answer, "ok");
    if (take_word(&t, "rebind"))
        do_rebind(c, t, answer);
    else if (take_word(&t, "offline"))
        do_offline(c, t, answer);
    else if (take_word(&t, "stats"))
        do_stats(c, t, answer);
    else
        say(answer, "error %d unknown command: expected rebind, offline or stats", EINVAL);
}

/* ---- the socket --------------------------------------------------------------------------------------------------------- */

/* An empty packet looks like the end. */
static bool has_ended(int fd)
{
    struct pollfd peer = {.fd = fd, .events = POLLRDHUP};

    return poll(&peer, 1, 0) != 0;
}

/* Whether there may be another command. */
static bool answer_one(const struct control *c)
{
    char command[COMMAND_MAX], answer[ANSWER_MAX];
    ssize_t n = recv(c->fd, command, sizeof(command), MSG_TRUNC);

    if (n < 0)
        return errno == EINTR;
    if (!n && has_ended(c->fd))
        return false;
    if (n > (ssize_t)sizeof(command))
        say(answer, "error %d a command has at most %u bytes", EMSGSIZE, COMMAND_MAX);
    else
        carry_out(c, (struct text){.at = command, .end = command + n}, answer);
    return send(c->fd, answer, strlen(answer), MSG_NOSIGNAL) >= 0;
}

static void *run(void *arg)
{
    while (answer_one(arg))
        ;
    return NULL;
}

int control_check(int fd)
{
    socklen_t len = sizeof(int);
    int type;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
        return -errno;
    return type == SOCK_SEQPACKET ? 0 : -EPROTOTYPE;
}

int control_start(int fd, struct pool *pool, const struct cbd_channel_conf *channels, uint32_t count, struct control **out)
{
    struct control *c = calloc(1, sizeof(*c));
    int flags = fcntl(fd, F_GETFL), err;

    if (!c)
        return -ENOMEM;
    *c = (struct control){.fd = fd, .pool = pool, .count = count, .like = channels[0]};
    err = flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC) ? -errno : 0;
    if (!err)
        err = thread_start(&c->thread, "cbd-control", run, c);
    if (err)
        free(c);
    else
        *out = c;
    return err;
}

void control_stop(struct control *c)
{
    shutdown(c->fd, SHUT_RDWR); /* wakes the thread, whether it receives or sends */
    pthread_join(c->thread, NULL);
    close(c->fd);
    free(c);
}
