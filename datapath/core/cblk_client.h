/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The application's end of the service socket.
 */
#ifndef CXL_CBLK_CLIENT_H
#define CXL_CBLK_CLIENT_H

#include "cxlflash_format.h"

#define CBLK_DESCRIPTORS 3 /* bell, user area, master area */

/* The socket and the LUN of what cblk_open() was given. 0 or a negated errno. */
int cblk_parse(const char *lun, char path[108], char name[64]);
/* The connected socket, or a negated errno. */
int cblk_connect(const char *path);
/* One service. fds: what came with the answer, -1 where nothing did. 0 or a negated errno, -EPIPE when there is no master at the other
 * end; the text of a refusal is in answer. */
int cblk_ask(int socket, struct cxlflash_request *request, struct cxlflash_answer *answer, int fds[CBLK_DESCRIPTORS]);

#endif
