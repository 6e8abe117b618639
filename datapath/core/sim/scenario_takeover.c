/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A backend's host is fenced, and another one goes on with what was in flight on a fresh channel: the old one may run, sleep or lose
 * power at any time, and once it had its time to notice nothing of it reaches the medium. At the end the blkdev's host is fenced.
 */
#include <errno.h>
#include <string.h>

#include "cbd_format.h"
#include "crc.h"
#include "scenarios.h"
#include "server.h"
#include "user.h"

#define REQUESTS 24U
#define CHANNELS 4096U
#define CHANNEL_BYTES (44U << 10)

enum { BLKDEV, OLD, NEW, DEVICE, HOSTS }; /* hosts */

static const uint64_t fence_lines[] = {[BLKDEV] = 64, [OLD] = 128, [NEW] = 192};

static struct world {
    struct user user;
    struct server old, fresh;
    struct cbd_channel_conf channels[2];
    bool old_sleeps;    /* for a while, and not while it is in the middle of something */
    bool moves;         /* the queue is told to go to the other channel */
    bool user_is_done;  /* ... and sleeps */
    bool user_is_fenced;
    bool over;
} world;

/* As fencing.py does it: read, write, wait, look again. */
static void raise_fence(uint32_t by, uint32_t host)
{
    struct cbd_fence_line line = {.epoch = 1}, seen;
    struct cxl_mem mem = sim_mem(by);

    line.crc = cxl_crc32c(0, &line, offsetof(struct cbd_fence_line, crc));
    cxl_mem_read(&mem, fence_lines[host], &seen, sizeof(seen));
    cxl_mem_write(&mem, fence_lines[host], &line, sizeof(line));
    sim_rest();
    cxl_mem_read(&mem, fence_lines[host], &seen, sizeof(seen));
    if (memcmp(&line, &seen, sizeof(line)))
        sim_fail("the fence of host %u does not stay", host);
}

/* ---- actors --------------------------------------------------------------------------------------------------------------- */

static void use(void *arg)
{
    struct world *w = arg;
    bool moved = false;
    uint64_t stores;

    while (w->user.ended < REQUESTS) {
        if (w->moves && !moved) {
            moved = true;
            if (cbd_queue_rebind(w->user.queue, &w->channels[1]))
                sim_fail("the queue cannot move");
        }
        if (w->user.sent < REQUESTS && user_submit(&w->user))
            sim_fail("a submission was refused");
        if (!user_poll(&w->user))
            sim_rest();
    }
    user_check_medium(&w->user);
    w->user_is_done = true;
    while (!w->user_is_fenced)
        sim_rest();
    stores = sim_stores(BLKDEV);
    if (user_submit(&w->user) != -EIO || sim_stores(BLKDEV) != stores)
        sim_fail("a fenced queue went on");
    w->over = true;
    medium_end();
}

static void serve_old(void *arg)
{
    struct world *w = arg;
    uint32_t sleeps_at = sim_random(2) ? sim_random(40) : UINT32_MAX, wakes_at = sim_random(REQUESTS);

    while (!w->over && server_turn(&w->old) != HANDLER_ENDED) {
        if (w->old.turns != sleeps_at)
            continue;
        w->old_sleeps = true;
        while (!w->moves || w->user.ended < wakes_at)
            sim_rest();
        w->old_sleeps = false;
    }
}

/* Whether what the old one had in hand when it was fenced has ended: the lease that who takes over waits. */
static bool had_its_time(const struct world *w, uint32_t turns)
{
    return (sim_is_dead(OLD) || w->old_sleeps || w->old.turns != turns || w->old.shared.fenced) && !medium_busy(OLD);
}

static void take_over(void *arg)
{
    struct world *w = arg;
    uint32_t when = sim_random(REQUESTS / 2), turns;

    while (w->user.ended < when && !w->old_sleeps && !sim_is_dead(OLD))
        sim_rest();
    raise_fence(NEW, OLD);
    turns = w->old.turns;
    while (!had_its_time(w, turns))
        sim_rest();
    medium_bar(OLD);
    server_open(&w->fresh, NEW, fence_lines[NEW], &w->channels[1]);
    w->moves = true;
    sim_progress();
    while (!w->over && server_turn(&w->fresh) != HANDLER_ENDED) {
        if (w->user_is_done && !w->user_is_fenced) {
            raise_fence(NEW, BLKDEV);
            w->user_is_fenced = true;
        }
    }
}

/* ---- the scenario ----------------------------------------------------------------------------------------------------------- */

static void open_world(struct world *w, uint32_t variant)
{
    struct cxl_mem mem = sim_mem(BLKDEV);

    memset(w, 0, sizeof(*w));
    for (uint32_t i = 0; i < 2; i++) {
        w->channels[i] = (struct cbd_channel_conf){
            .channel_off = CHANNELS + i * CHANNEL_BYTES,
            .ring_depth = USER_JOBS,
            .slot_bytes = CBD_MIN_SLOT_BYTES,
            .epoch = 1 + i,
            .features = (variant & CHANNEL_CRC) ? CBD_FEATURE_DATA_CRC : 0,
            .host_epoch = 1,
            .fence_off = fence_lines[BLKDEV],
        };
    }
    medium_open();
    if (cbd_queue_new(&mem, &w->channels[0], &w->user.queue))
        sim_fail("no queue");
    server_open(&w->old, OLD, fence_lines[OLD], &w->channels[0]);
}

void scenario_takeover(uint32_t variant)
{
    open_world(&world, variant);
    sim_actor(BLKDEV, use, &world);
    sim_actor(OLD, serve_old, &world);
    sim_actor(NEW, take_over, &world);
    sim_actor(DEVICE, medium_actor, NULL);
    sim_crash_sometime(OLD, NULL);
    sim_go();
    server_close(&world.old);
    server_close(&world.fresh);
    cbd_queue_free(world.user.queue);
}
