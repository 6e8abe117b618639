/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A queue and a handler, and a medium whose content is known. What one end has sent reaches the other even if the sender goes to
 * sleep, or ends, right after.
 */
#include <string.h>

#include "cbd_format.h"
#include "scenarios.h"
#include "server.h"
#include "user.h"

#define REQUESTS 24U

static struct world {
    struct user user;
    struct server server;
} world;

static void use(void *arg)
{
    struct world *w = arg;

    while (w->user.ended < REQUESTS) {
        if (w->user.sent < REQUESTS && user_submit(&w->user))
            sim_fail("a submission was refused");
        while (w->user.sent > server_answered(&w->server) && !sim_random(8))
            sim_rest(); /* and does not touch the memory meanwhile */
        if (!sim_random(4)) {
            while (w->user.sent > server_answered(&w->server))
                sim_rest();
        }
        if (!user_poll(&w->user))
            sim_rest();
    }
    user_check_medium(&w->user);
    medium_end();
}

static void serve(void *arg)
{
    struct world *w = arg;

    while (server_turn(&w->server) != HANDLER_ENDED) {
        if (server_answered(&w->server) == REQUESTS)
            handler_finish(w->server.handler);
    }
}

void scenario_channel(uint32_t variant)
{
    struct cbd_channel_conf conf = {.ring_depth = USER_JOBS, .slot_bytes = CBD_MIN_SLOT_BYTES, .epoch = 1};
    struct cxl_mem mem = sim_mem(0);

    conf.features = (variant & CHANNEL_CRC) ? CBD_FEATURE_DATA_CRC : 0;
    memset(&world, 0, sizeof(world));
    medium_open();
    if (cbd_queue_new(&mem, &conf, &world.user.queue))
        sim_fail("no queue");
    server_open(&world.server, 1, 0, &conf);
    sim_actor(0, use, &world);
    sim_actor(1, serve, &world);
    sim_actor(2, medium_actor, NULL);
    sim_go();
    server_close(&world.server);
    cbd_queue_free(world.user.queue);
}
