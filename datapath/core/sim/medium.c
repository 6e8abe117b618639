/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "medium.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define MAX_DEPTH 16U

enum stage { NONE, STARTED, SUBMITTED, DONE };

struct started {
    enum stage stage;
    struct step step;
    int32_t result;
};

struct engine {
    struct engine *next;
    const struct device *dev;
    enum cbd_engine kind;
    struct started by_tag[MAX_DEPTH];
};

static struct medium {
    uint8_t bytes[MEDIUM_BYTES];
    struct engine *engines;
    bool barred[SIM_MAX_HOSTS];
    bool ends;
} medium;

void medium_open(void)
{
    medium = (struct medium){0};
}

const uint8_t *medium_bytes(void)
{
    return medium.bytes;
}

void medium_end(void)
{
    medium.ends = true;
}

void medium_bar(uint32_t host)
{
    medium.barred[host] = true;
}

bool medium_busy(uint32_t host)
{
    for (const struct engine *e = medium.engines; e; e = e->next) {
        for (uint32_t tag = 0; (uint32_t)e->dev->fd == host && tag < MAX_DEPTH; tag++) {
            if (e->by_tag[tag].stage == SUBMITTED)
                return true;
        }
    }
    return false;
}

/* Moves less than was asked for now and then, as the kernel may. */
static int32_t perform(uint32_t host, const struct step *s)
{
    uint32_t blocks = s->len / MEDIUM_BLOCK;
    uint32_t len = blocks > 1 && !sim_random(8) ? MEDIUM_BLOCK * (1 + sim_random(blocks - 1)) : s->len;

    if (medium.barred[host])
        sim_fail("host %u reached the medium after it was fenced and given time to notice", host);
    switch (s->kind) {
    case STEP_READ:
        memcpy(s->buf, medium.bytes + s->offset, len);
        return (int32_t)len;
    case STEP_WRITE:
        memcpy(medium.bytes + s->offset, s->buf, len);
        return (int32_t)len;
    case STEP_ALLOCATE:
        if (!(s->flags & FALLOC_FL_PUNCH_HOLE) && !sim_random(4))
            return -EOPNOTSUPP;
        memset(medium.bytes + s->offset, 0, s->len);
        return 0;
    default:
        return 0;
    }
}

static void perform_some(struct engine *e)
{
    struct started *s = &e->by_tag[sim_random(MAX_DEPTH)];
    uint32_t host = (uint32_t)e->dev->fd;

    if (s->stage != SUBMITTED)
        return;
    if (!sim_is_dead(host) || sim_random(2)) /* of a host without power it may still arrive, or not */
        s->result = perform(host, &s->step);
    s->stage = DONE;
}

void medium_actor(void *unused)
{
    (void)unused;
    while (!medium.ends) {
        for (struct engine *e = medium.engines; e; e = e->next)
            perform_some(e);
        sim_rest();
    }
}

/* ---- engine.h ------------------------------------------------------------------------------------------------------------- */

int engine_choose(enum cbd_engine wanted, enum cbd_engine *out)
{
    *out = wanted == CBD_ENGINE_AUTO ? CBD_ENGINE_URING : wanted;
    return 0;
}

int engine_new(const struct device *dev, enum cbd_engine kind, uint32_t depth, struct engine **out)
{
    struct engine *e = calloc(1, sizeof(*e));

    if (!e || depth > MAX_DEPTH)
        abort();
    e->dev = dev;
    e->kind = kind;
    e->next = medium.engines;
    medium.engines = e;
    *out = e;
    return 0;
}

void engine_free(struct engine *e)
{
    struct engine **link = &medium.engines;

    if (!e)
        return;
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    free(e);
}

static uint32_t count(const struct engine *e, enum stage stage)
{
    uint32_t n = 0;

    for (uint32_t tag = 0; tag < MAX_DEPTH; tag++)
        n += e->by_tag[tag].stage == stage;
    return n;
}

bool engine_has_room(const struct engine *e, uint32_t in_flight)
{
    return in_flight < (e->kind == CBD_ENGINE_SYNC ? 1 : MAX_DEPTH);
}

void engine_start(struct engine *e, uint32_t tag, const struct step *step)
{
    e->by_tag[tag] = (struct started){.stage = STARTED, .step = *step};
}

bool engine_unsubmitted(const struct engine *e)
{
    return count(e, STARTED);
}

void engine_submit(struct engine *e)
{
    for (uint32_t tag = 0; tag < MAX_DEPTH; tag++) {
        struct started *s = &e->by_tag[tag];

        if (s->stage != STARTED)
            continue;
        s->stage = SUBMITTED;
        if (e->kind == CBD_ENGINE_URING)
            continue;
        s->result = perform((uint32_t)e->dev->fd, &s->step);
        s->stage = DONE;
    }
}

uint32_t engine_reap(struct engine *e, struct ended *out, uint32_t max)
{
    uint32_t n = 0;

    for (uint32_t tag = 0; n < max && tag < MAX_DEPTH; tag++) {
        if (e->by_tag[tag].stage != DONE)
            continue;
        out[n++] = (struct ended){.tag = tag, .result = e->by_tag[tag].result};
        e->by_tag[tag].stage = NONE;
    }
    return n;
}

void engine_wait(struct engine *e, uint64_t ns)
{
    (void)e;
    (void)ns;
    sim_rest();
}

/* What the device has begun runs to its end. */
void engine_abandon(struct engine *e)
{
    for (uint32_t tag = 0; tag < MAX_DEPTH; tag++) {
        if (e->by_tag[tag].stage != SUBMITTED || sim_random(2))
            e->by_tag[tag].stage = NONE;
    }
    while (count(e, SUBMITTED))
        sim_rest();
}
