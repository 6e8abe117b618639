/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The memory and the caches; mem_sim.c is mem.h on top of them. A host holds a line in one of three states; a write-back is of the whole line, as that of a CPU is,
 * which is why two writers of one line lose each other's bytes.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model.h"

#define WORDS (MEM_LINE / WORD)
#define BUFFERED_STORES 32U
#define TORN_LINES 16U
#define TORN_STEPS 64U /* a write-back that has begun ends within so many steps of anybody */

enum state { INVALID, CLEAN, DIRTY };

struct line {
    uint8_t bytes[MEM_LINE];
    enum state state;
};

struct flush { /* that has not happened yet */
    uint32_t line;
    bool invalidates;
};

struct store { /* that only its own host sees */
    uint64_t off;
    uint32_t len;
    uint8_t bytes[WORD];
};

struct torn { /* a write-back that has begun */
    uint32_t host, line;
    uint8_t missing; /* a bit per word */
    uint32_t steps_left;
    uint8_t bytes[MEM_LINE];
};

struct host {
    struct line *lines;
    struct flush *flushes;
    uint32_t waiting, room; /* flushes */
    struct store stores[BUFFERED_STORES];
    uint32_t buffered;
    uint64_t stored; /* stores so far */
};

static struct model {
    uint8_t *memory;
    uint8_t *mappings; /* address space without memory: one stretch per host */
    uint8_t *windows;  /* as large; see mem_window() */
    uint64_t bytes;
    uint32_t host_count;
    struct host hosts[SIM_MAX_HOSTS];
    uint32_t *touched; /* lines that any host ever used: the others are of no interest to an adversary */
    bool *is_touched;
    uint32_t touched_count;
    struct torn torn[TORN_LINES];
    uint32_t torn_count;
} model;

static void *need(void *p)
{
    if (!p || p == MAP_FAILED)
        abort();
    return p;
}

void model_open(const struct sim_conf *conf)
{
    size_t lines = conf->bytes / MEM_LINE;

    model = (struct model){.bytes = conf->bytes, .host_count = conf->hosts};
    model.memory = need(aligned_alloc(MEM_LINE, conf->bytes));
    memset(model.memory, 0, conf->bytes);
    model.mappings = need(mmap(NULL, conf->bytes * conf->hosts, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    model.windows = need(mmap(NULL, conf->bytes * conf->hosts, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    model.touched = need(calloc(lines, sizeof(*model.touched)));
    model.is_touched = need(calloc(lines, sizeof(*model.is_touched)));
    for (uint32_t i = 0; i < conf->hosts; i++)
        model.hosts[i].lines = need(calloc(lines, sizeof(struct line)));
}

void model_close(void)
{
    munmap(model.mappings, model.bytes * model.host_count);
    munmap(model.windows, model.bytes * model.host_count);
    for (uint32_t i = 0; i < model.host_count; i++) {
        free(model.hosts[i].lines);
        free(model.hosts[i].flushes);
    }
    free(model.touched);
    free(model.is_touched);
    free(model.memory);
    model = (struct model){0};
}

uint8_t *sim_memory(void)
{
    return model.memory;
}

struct cxl_mem sim_mem(uint32_t host)
{
    return (struct cxl_mem){
        .base = model.mappings + host * model.bytes,
        .len = model.bytes,
        .coherence = sim_profile()->coherent ? CXL_COHERENCE_HARDWARE : CXL_COHERENCE_SOFTWARE,
    };
}

uint32_t model_host_of(const uint8_t *base)
{
    return (uint32_t)((uint64_t)(base - model.mappings) / model.bytes);
}

uint64_t model_offset_of(const uint8_t *base)
{
    return (uint64_t)(base - model.mappings) % model.bytes;
}

uint8_t *model_window(uint32_t host, uint64_t off)
{
    return model.windows + host * model.bytes + off;
}

static bool happens(uint32_t chance)
{
    return chance && sim_random(1024) < chance;
}

static uint8_t *in_memory(uint32_t line)
{
    return model.memory + (uint64_t)line * MEM_LINE;
}

/* ---- write-backs -------------------------------------------------------------------------------------------------------- */

static void torn_word(struct torn *t, uint32_t word)
{
    memcpy(in_memory(t->line) + word * WORD, t->bytes + word * WORD, WORD);
    t->missing &= (uint8_t)~(1U << word);
}

static void torn_finish(uint32_t index)
{
    struct torn *t = &model.torn[index];

    for (uint32_t word = 0; word < WORDS; word++) {
        if (t->missing & 1U << word)
            torn_word(t, word);
    }
    *t = model.torn[--model.torn_count];
}

/* Of a host: those of one line, or all (UINT32_MAX). */
static void torn_finish_of(uint32_t host, uint32_t line)
{
    for (uint32_t i = model.torn_count; i-- > 0;) {
        if (model.torn[i].host == host && (line == UINT32_MAX || model.torn[i].line == line))
            torn_finish(i);
    }
}

static void write_back(uint32_t host, uint32_t line)
{
    struct line *l = &model.hosts[host].lines[line];

    torn_finish_of(host, line);
    l->state = CLEAN;
    if (model.torn_count < TORN_LINES && happens(sim_profile()->tear)) {
        struct torn *t = &model.torn[model.torn_count++];

        *t = (struct torn){.host = host, .line = line, .missing = 0xff, .steps_left = TORN_STEPS};
        memcpy(t->bytes, l->bytes, MEM_LINE);
    } else {
        memcpy(in_memory(line), l->bytes, MEM_LINE);
    }
}

static void drop(uint32_t host, uint32_t line)
{
    struct line *l = &model.hosts[host].lines[line];

    if (l->state == DIRTY || (l->state == CLEAN && happens(sim_profile()->clean)))
        write_back(host, line);
    l->state = INVALID;
}

static void perform(uint32_t host, struct flush flush)
{
    if (flush.invalidates)
        drop(host, flush.line);
    else if (model.hosts[host].lines[flush.line].state == DIRTY)
        write_back(host, flush.line);
}

/* ---- loads and stores ----------------------------------------------------------------------------------------------------- */

static struct line *fetch(uint32_t host, uint32_t line)
{
    struct line *l = &model.hosts[host].lines[line];

    if (!model.is_touched[line]) {
        model.is_touched[line] = true;
        model.touched[model.touched_count++] = line;
    }
    if (l->state == INVALID) {
        torn_finish_of(host, line);
        memcpy(l->bytes, in_memory(line), MEM_LINE);
        l->state = CLEAN;
    }
    return l;
}

static void leave_buffer(struct host *h)
{
    memcpy(model.memory + h->stores[0].off, h->stores[0].bytes, h->stores[0].len);
    memmove(&h->stores[0], &h->stores[1], --h->buffered * sizeof(h->stores[0]));
}

static void load_coherent(const struct host *h, uint64_t off, uint8_t *dst, uint32_t len)
{
    memcpy(dst, model.memory + off, len);
    for (uint32_t i = 0; i < h->buffered; i++) {
        const struct store *s = &h->stores[i];

        for (uint32_t byte = 0; byte < s->len; byte++) {
            if (s->off + byte >= off && s->off + byte < off + len)
                dst[s->off + byte - off] = s->bytes[byte];
        }
    }
}

void model_load(uint32_t host, uint64_t off, uint8_t *dst, uint32_t len)
{
    sim_step(host, "load", off, len);
    if (sim_is_dead(host))
        memset(dst, 0, len);
    else if (sim_profile()->coherent)
        load_coherent(&model.hosts[host], off, dst, len);
    else
        memcpy(dst, fetch(host, (uint32_t)(off / MEM_LINE))->bytes + off % MEM_LINE, len);
}

void model_store(uint32_t host, uint64_t off, const uint8_t *src, uint32_t len)
{
    struct host *h = &model.hosts[host];

    sim_step(host, "store", off, len);
    if (sim_is_dead(host))
        return;
    h->stored++;
    if (sim_profile()->coherent) {
        if (h->buffered == BUFFERED_STORES)
            leave_buffer(h);
        h->stores[h->buffered] = (struct store){.off = off, .len = len};
        memcpy(h->stores[h->buffered++].bytes, src, len);
    } else {
        struct line *l = fetch(host, (uint32_t)(off / MEM_LINE));

        memcpy(l->bytes + off % MEM_LINE, src, len);
        l->state = DIRTY;
    }
}

uint64_t sim_stores(uint32_t host)
{
    return model.hosts[host].stored;
}

/* ---- flushes and fences ------------------------------------------------------------------------------------------------------ */

void model_flush(uint32_t host, const char *what, uint64_t off, uint64_t len, bool invalidates)
{
    struct host *h = &model.hosts[host];

    for (uint64_t line = off / MEM_LINE; line * MEM_LINE < off + len; line++) {
        struct flush f = {.line = (uint32_t)line, .invalidates = invalidates};

        sim_step(host, what, line * MEM_LINE, MEM_LINE);
        if (sim_is_dead(host))
            return;
        if (!sim_profile()->queued) {
            perform(host, f);
            torn_finish_of(host, f.line);
            continue;
        }
        if (h->waiting == h->room) {
            h->room = h->room ? 2 * h->room : 64;
            h->flushes = need(realloc(h->flushes, h->room * sizeof(*h->flushes)));
        }
        h->flushes[h->waiting++] = f;
    }
}

static void drain_one(uint32_t host)
{
    struct host *h = &model.hosts[host];
    uint32_t i = sim_random(h->waiting);
    struct flush f = h->flushes[i];

    h->flushes[i] = h->flushes[--h->waiting];
    perform(host, f);
}

void model_fence(uint32_t host, const char *what)
{
    struct host *h = &model.hosts[host];

    sim_step(host, what, 0, 0);
    while (!sim_is_dead(host) && (h->waiting || h->buffered)) {
        if (h->buffered)
            leave_buffer(h);
        else
            drain_one(host);
        sim_step(host, "  goes on", 0, 0);
    }
    torn_finish_of(host, UINT32_MAX);
}

void model_rest(uint32_t host, bool ended)
{
    while (model.hosts[host].buffered && (ended || sim_random(4)))
        leave_buffer(&model.hosts[host]);
}

/* ---- moves of an adversary ----------------------------------------------------------------------------------------------------- */

static bool pick(uint32_t *host, uint32_t *line)
{
    if (!model.touched_count)
        return false;
    *host = sim_random(model.host_count);
    *line = model.touched[sim_random(model.touched_count)];
    return !sim_is_dead(*host);
}

void model_evict_some(void)
{
    uint32_t host, line;

    if (!pick(&host, &line))
        return;
    if (model.hosts[host].lines[line].state == DIRTY && sim_random(2))
        write_back(host, line);
    else
        drop(host, line);
}

void model_prefetch_some(void)
{
    uint32_t host, line;

    if (pick(&host, &line))
        fetch(host, line);
}

void model_drain_some(void)
{
    uint32_t host = sim_random(model.host_count);

    if (model.hosts[host].buffered)
        leave_buffer(&model.hosts[host]);
    else if (model.hosts[host].waiting)
        drain_one(host);
}

void model_tear_on(void)
{
    for (uint32_t i = model.torn_count; i-- > 0;) {
        struct torn *t = &model.torn[i];

        if (!t->steps_left--)
            torn_finish(i);
        else if (!sim_random(8))
            torn_word(t, sim_random(WORDS));
    }
}

/* What the power-off leaves of a host: any words of any line that it had changed, and none of its copies. */
void model_lose(uint32_t host)
{
    struct host *h = &model.hosts[host];

    for (uint32_t i = 0; i < model.touched_count; i++) {
        struct line *l = &h->lines[model.touched[i]];
        uint32_t arrives = sim_random(3); /* nothing, some, all */

        for (uint32_t word = 0; l->state == DIRTY && word < WORDS; word++) {
            if (arrives == 2 || (arrives == 1 && sim_random(2)))
                memcpy(in_memory(model.touched[i]) + word * WORD, l->bytes + word * WORD, WORD);
        }
        l->state = INVALID;
    }
    for (uint32_t i = model.torn_count; i-- > 0;) {
        if (model.torn[i].host == host)
            model.torn[i] = model.torn[--model.torn_count];
    }
    h->waiting = h->buffered = 0;
}
