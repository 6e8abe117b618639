/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "cblk_client.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/cxl-datapath/lun.sock"

int cblk_parse(const char *lun, char path[108], char name[64])
{
    const char *slash = lun ? strrchr(lun, '/') : NULL;
    const char *last = slash ? slash + 1 : lun;
    size_t length = slash ? (size_t)(slash - lun) : strlen(DEFAULT_SOCKET);

    if (!last || !*last || strlen(last) > 63 || length > 107)
        return -EINVAL;
    memset(path, 0, 108);
    memset(name, 0, 64);
    memcpy(path, slash ? lun : DEFAULT_SOCKET, length);
    memcpy(name, last, strlen(last));
    return 0;
}

int cblk_connect(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int err;

    if (fd < 0)
        return -errno;
    memcpy(address.sun_path, path, sizeof(address.sun_path));
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address))) {
        err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

static void take_descriptors(struct msghdr *message, int fds[CBLK_DESCRIPTORS])
{
    struct cmsghdr *part = CMSG_FIRSTHDR(message);

    if (part && part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_RIGHTS) {
        size_t bytes = part->cmsg_len - CMSG_LEN(0);

        memcpy(fds, CMSG_DATA(part), bytes < CBLK_DESCRIPTORS * sizeof(int) ? bytes : CBLK_DESCRIPTORS * sizeof(int));
    }
}

int cblk_ask(int socket, struct cxlflash_request *request, struct cxlflash_answer *answer, int fds[CBLK_DESCRIPTORS])
{
    union {
        char bytes[CMSG_SPACE(CBLK_DESCRIPTORS * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = answer, .iov_len = sizeof(*answer)};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t n;

    request->version = CXLFLASH_VERSION;
    for (int i = 0; i < CBLK_DESCRIPTORS; i++)
        fds[i] = -1;
    memset(answer, 0, sizeof(*answer));
    if (socket < 0)
        return -EPIPE;
    if (send(socket, request, sizeof(*request), MSG_NOSIGNAL) != (ssize_t)sizeof(*request))
        return errno == ECONNRESET ? -EPIPE : -errno;
    do
        n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return !n || errno == ECONNRESET ? -EPIPE : -errno;
    take_descriptors(&message, fds);
    if (n != (ssize_t)sizeof(*answer) || answer->version != CXLFLASH_VERSION || answer->service != request->service)
        return -EIO; /* it is no master of ours */
    answer->text[sizeof(answer->text) - 1] = '\0';
    return -answer->error;
}
