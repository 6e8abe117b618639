/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Commands for a pool over a SOCK_SEQPACKET socket: text, one command per packet, each answered by one packet.
 *
 *   rebind OFFSET:EPOCH ...   one channel per queue, decimal    -> ok
 *   offline ERRNO             1 to 4095, not 11 (EAGAIN)        -> ok
 *   stats                                                       -> ok submitted=N requests=N bytes_read=N ...
 *
 * Words are separated by one space. What is wrong is answered by `error ERRNO TEXT`, and nothing has changed.
 */
#ifndef CXL_CONTROL_H
#define CXL_CONTROL_H

#include "cxl_core.h"
#include "pool.h"

struct control;

/* Whether such a socket is behind the descriptor: 0, -ENOTSOCK, -EPROTOTYPE, -EBADF. */
int control_check(int fd);
/* Starts a thread that answers until the peer closes its end. fd becomes ours. channels, count: as at the start of the pool. */
int control_start(int fd, struct pool *pool, const struct cbd_channel_conf *channels, uint32_t count, struct control **out);
/* Ends the thread, whatever it waits for, and closes fd. */
void control_stop(struct control *control);

#endif
