/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A backend of one channel in a simulation: the handler that ships, whose turns an actor makes.
 */
#ifndef CXL_SIM_SERVER_H
#define CXL_SIM_SERVER_H

#include "handler.h"
#include "sim.h"

struct server {
    struct handler_shared shared;
    struct handler *handler; /* NULL: not open */
    uint32_t turns;          /* that are over */
};

/* fence_off: as in cbd_backend_conf; the incarnation of the host is 1. */
void server_open(struct server *s, uint32_t host, uint64_t fence_off, const struct cbd_channel_conf *channel);
enum handler_did server_turn(struct server *s);
/* Turns until the handler has ended. */
void server_serve(struct server *s);
/* Requests that were answered; this is not looked up in the simulated memory. */
uint64_t server_answered(const struct server *s);
/* After the simulation. */
void server_close(struct server *s);

#endif
