/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The ring as the RFC drew it, reduced to what its defects need: entries in two rings, and an index per ring and side that both
 * sides share. With all three defects repaired it is right, so that each of them alone is what an adversary finds.
 */
#include "cxl_core.h"
#include "mem.h"
#include "scenarios.h"

#define DEPTH 4U
#define ENTRIES 20U

struct ring_of_rfc {
    uint64_t entries; /* offset; a line each */
    uint64_t head, tail;
};

struct side {
    struct mem_map map;
    uint32_t defects;
    struct ring_of_rfc commands, completions;
    uint64_t produced, consumed;
};

static void out(const struct side *s, uint64_t off)
{
    if (s->defects & RFC_NO_FLUSH)
        return;
    mem_clean(&s->map, SIM_NO_SITE, off, MEM_LINE);
    mem_store_fence(&s->map, SIM_NO_SITE);
}

static uint64_t look(const struct side *s, uint64_t off)
{
    if (!(s->defects & RFC_NO_FLUSH)) {
        mem_invalidate(&s->map, SIM_NO_SITE, off, sizeof(uint64_t));
        mem_load_fence(&s->map, SIM_NO_SITE);
    }
    return mem_load64(&s->map, off);
}

static void set(const struct side *s, uint64_t off, uint64_t value)
{
    mem_store64(&s->map, off, value);
    out(s, off);
}

static void put(struct side *s, const struct ring_of_rfc *ring, bool is_completion)
{
    uint64_t n = ++s->produced, off = ring->entries + n % DEPTH * MEM_LINE;

    mem_store64(&s->map, off, n);
    if (!is_completion || !(s->defects & RFC_COMPLETION_STAYS))
        out(s, off);
    set(s, ring->head, n);
}

static bool get(struct side *s, const struct ring_of_rfc *ring)
{
    uint64_t n = s->consumed + 1;

    if (look(s, ring->head) < n)
        return false;
    if (look(s, ring->entries + n % DEPTH * MEM_LINE) != n)
        sim_fail("entry %llu holds something else", (unsigned long long)n);
    s->consumed = n;
    set(s, ring->tail, n);
    sim_progress();
    return true;
}

static void ask(void *arg)
{
    struct side *s = arg;

    while (s->consumed < ENTRIES) {
        bool room = s->produced < ENTRIES && s->produced - look(s, s->commands.tail) < DEPTH && s->produced - s->consumed < DEPTH;

        if (room)
            put(s, &s->commands, false);
        if (!get(s, &s->completions) && !room)
            sim_rest();
    }
}

static void reply(void *arg)
{
    struct side *s = arg;

    while (s->produced < ENTRIES) {
        if (get(s, &s->commands))
            put(s, &s->completions, true);
        else
            sim_rest();
    }
}

/* The order of the four indices is the RFC's: both sides write into the one line. */
static void side_init(struct side *s, uint32_t host, uint32_t defects)
{
    uint64_t apart = (defects & RFC_SHARED_LINE) ? sizeof(uint64_t) : MEM_LINE;
    struct cxl_mem mem = sim_mem(host);

    *s = (struct side){.defects = defects};
    if (mem_map_init(&s->map, &mem))
        sim_fail("no mapping");
    s->commands = (struct ring_of_rfc){.entries = 1024, .head = 0, .tail = apart};
    s->completions = (struct ring_of_rfc){.entries = 2048, .head = 2 * apart, .tail = 3 * apart};
}

void scenario_rfc(uint32_t defects)
{
    struct side asker, replier;

    side_init(&asker, 0, defects);
    side_init(&replier, 1, defects);
    sim_actor(0, ask, &asker);
    sim_actor(1, reply, &replier);
    sim_go();
}
