/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Arbitrary packets on the control socket of the nbdkit plugin. Each is answered by one packet of the documented form, and the pool
 * still ends its calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../tests/fixture.h"
#include "control.h"
#include "fuzz.h"
#include "pool.h"

#define PACKET_UNIT 8U /* up to twice what a command may have */

static struct fixture f;

static int give_up(uint64_t ns)
{
    (void)ns;
    return -1;
}

static void check_answer(const char *answer, ssize_t len)
{
    int number = 0, used = 0;

    CHECK(len > 1 && len < 256);
    if (!strncmp(answer, "ok", 2) && (len == 2 || answer[2] == ' '))
        return;
    CHECK_EQ(sscanf(answer, "error %d %n", &number, &used), 1);
    CHECK(number > 0 && number <= CBD_MAX_ERRNO && used < len);
}

static void ask(int fd, struct input *in)
{
    static char packet[256 * PACKET_UNIT], answer[4096];
    size_t len = take8(in), left = (size_t)(in->end - in->at);
    ssize_t n;

    len = len > 200 ? (len - 200) * PACKET_UNIT * 4 : len;
    if (len > left && left)
        len = left;
    take(in, packet, len);
    CHECK_EQ(send(fd, packet, len, MSG_NOSIGNAL), (ssize_t)len);
    n = recv(fd, answer, sizeof(answer) - 1, 0);
    CHECK(n >= 0);
    answer[n] = '\0';
    check_answer(answer, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    struct control *control;
    struct pool *pool;
    int ends[2];

    if (!f.mem.base)
        fixture_memory(&f, CXL_COHERENCE_HARDWARE, 0);
    CHECK_EQ(pool_new(&f.mem, f.conf, CHANNELS, give_up, &pool), 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    CHECK_EQ(control_start(ends[1], pool, f.conf, CHANNELS, &control), 0);
    while (input_left(&in))
        ask(ends[0], &in);
    CHECK(pool_run(pool, CBD_FLUSH, 0, 0, 0, NULL) < 0);
    close(ends[0]);
    control_stop(control);
    pool_free(pool);
    return 0;
}
