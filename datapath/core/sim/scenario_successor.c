/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The blkdev's host loses power at any time, and a blkdev of another host takes its channel over with a fresh epoch: of what was in
 * flight each block is written or not, and nothing that is left in the channel is taken for something new.
 */
#include <string.h>

#include "cbd_format.h"
#include "scenarios.h"
#include "server.h"
#include "user.h"

#define REQUESTS 16U

enum { FIRST, SECOND, SERVER, DEVICE }; /* hosts */

static struct world {
    struct user users[2]; /* by host */
    struct server servers[2];
    struct cbd_channel_conf channel;
    bool handed_over;
} world;

static void use(struct user *u)
{
    while (u->ended < REQUESTS) {
        if (u->sent < REQUESTS && user_submit(u))
            sim_fail("a submission was refused");
        if (!user_poll(u))
            sim_rest();
    }
    user_check_medium(u);
}

static void use_first(void *arg)
{
    struct world *w = arg;

    use(&w->users[FIRST]);
}

static void open_queue(struct world *w, uint32_t host)
{
    struct cxl_mem mem = sim_mem(host);

    if (cbd_queue_new(&mem, &w->channel, &w->users[host].queue))
        sim_fail("no queue");
}

static void use_second(void *arg)
{
    struct world *w = arg;

    while (!w->handed_over)
        sim_rest();
    open_queue(w, SECOND);
    memcpy(w->users[SECOND].content, medium_bytes(), MEDIUM_BYTES);
    use(&w->users[SECOND]);
    handler_finish(w->servers[SECOND].handler);
    medium_end();
}

/* The handler of the dead one's epoch ends before there is one of the next. */
static void serve(void *arg)
{
    struct world *w = arg;
    const struct user *first = &w->users[FIRST];

    while (!sim_is_dead(FIRST) && first->ended < REQUESTS)
        server_turn(&w->servers[FIRST]);
    for (uint32_t more = sim_random(4); more; more--)
        server_turn(&w->servers[FIRST]);
    handler_finish(w->servers[FIRST].handler);
    server_serve(&w->servers[FIRST]);
    user_check_medium(first);
    w->channel.epoch++;
    server_open(&w->servers[SECOND], SERVER, 0, &w->channel);
    w->handed_over = true;
    sim_progress();
    server_serve(&w->servers[SECOND]);
}

void scenario_successor(uint32_t variant)
{
    memset(&world, 0, sizeof(world));
    world.channel = (struct cbd_channel_conf){.ring_depth = USER_JOBS, .slot_bytes = CBD_MIN_SLOT_BYTES, .epoch = 1};
    world.channel.features = (variant & CHANNEL_CRC) ? CBD_FEATURE_DATA_CRC : 0;
    medium_open();
    open_queue(&world, FIRST);
    server_open(&world.servers[FIRST], SERVER, 0, &world.channel);
    sim_actor(FIRST, use_first, &world);
    sim_actor(SECOND, use_second, &world);
    sim_actor(SERVER, serve, &world);
    sim_actor(DEVICE, medium_actor, NULL);
    sim_crash_sometime(FIRST, NULL);
    sim_go();
    for (uint32_t host = 0; host < 2; host++) {
        server_close(&world.servers[host]);
        cbd_queue_free(world.users[host].queue);
    }
}
