/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The model of the simulator is what the proof rests on: what each adversary may do to a store, and what it may not.
 */
#include <string.h>

#include "check.h"
#include "sim/sim.h"

#define ONE 0x1111111111111111ULL
#define TWO 0x2222222222222222ULL

static struct mem_map maps[2];

/* The first seed whose adversary does nothing at random. */
static void begin(enum sim_adversary adversary)
{
    struct sim_conf conf = {.adversary = adversary, .hosts = 2, .bytes = 4096, .drop = SIM_DROP_NONE};
    const struct profile *p;
    struct sim_report report;
    struct cxl_mem mem;

    for (sim_open(&conf); (p = sim_profile())->evict || p->prefetch || (p->drain && !p->coherent); sim_open(&conf)) {
        sim_close(&report);
        conf.seed++;
    }
    for (uint32_t host = 0; host < 2; host++) {
        mem = sim_mem(host);
        CHECK_EQ(mem_map_init(&maps[host], &mem), 0);
    }
}

static void end(void)
{
    struct sim_report report;

    sim_close(&report);
    CHECK_EQ(report.outcome, SIM_PASSED);
}

static uint64_t memory(uint64_t off)
{
    uint64_t value;

    memcpy(&value, sim_memory() + off, sizeof(value));
    return value;
}

static void test_caches_are_private(void)
{
    TEST("a store is seen by others when its line was cleaned and theirs was dropped, not before");
    begin(SIM_LAZY);
    CHECK_EQ(mem_load64(&maps[1], 0), 0);
    mem_store64(&maps[0], 0, ONE);
    CHECK_EQ(mem_load64(&maps[0], 0), ONE);
    CHECK_EQ(memory(0), 0);
    mem_clean(&maps[0], SIM_NO_SITE, 0, 8);
    CHECK_EQ(memory(0), ONE);
    CHECK_EQ(mem_load64(&maps[1], 0), 0);
    mem_clean(&maps[1], SIM_NO_SITE, 0, 8); /* is never an invalidate */
    CHECK_EQ(mem_load64(&maps[1], 0), 0);
    mem_invalidate(&maps[1], SIM_NO_SITE, 0, 8);
    CHECK_EQ(mem_load64(&maps[1], 0), ONE);
    end();

    TEST("a write-back is of the whole line, and of a changed one only");
    begin(SIM_LAZY);
    mem_store64(&maps[0], 0, ONE);
    mem_store64(&maps[1], 8, TWO);
    mem_clean(&maps[0], SIM_NO_SITE, 0, 8);
    mem_clean(&maps[1], SIM_NO_SITE, 0, 16);
    CHECK_EQ(memory(0), 0);
    CHECK_EQ(memory(8), TWO);
    mem_clean(&maps[0], SIM_NO_SITE, 0, 8);
    mem_invalidate(&maps[0], SIM_NO_SITE, 0, 8);
    CHECK_EQ(memory(0), 0);
    CHECK_EQ(memory(8), TWO);
    end();
}

static void test_copies(void)
{
    uint8_t in[200], out[200];
    uint64_t state = 1;

    TEST("copies of any offset and length");
    begin(SIM_LAZY);
    fill_random(in, sizeof(in), &state);
    for (uint64_t off = 60; off < 80; off++) {
        mem_copy_in(&maps[0], off, in, sizeof(in));
        mem_clean(&maps[0], SIM_NO_SITE, off, sizeof(in));
        mem_invalidate(&maps[1], SIM_NO_SITE, off, sizeof(in));
        mem_copy_out(&maps[1], out, off, sizeof(out));
        CHECK_EQ(memcmp(in, out, sizeof(in)), 0);
    }
    end();
}

static void test_flushes_wait(void)
{
    TEST("flushes wait for their host's fence");
    begin(SIM_REORDER);
    CHECK_EQ(mem_load64(&maps[1], 0), 0);
    mem_store64(&maps[0], 0, ONE);
    mem_clean(&maps[0], SIM_NO_SITE, 0, 8);
    mem_load_fence(&maps[1], SIM_NO_SITE);
    CHECK_EQ(memory(0), 0);
    mem_store_fence(&maps[0], SIM_NO_SITE);
    CHECK_EQ(memory(0), ONE);
    mem_invalidate(&maps[1], SIM_NO_SITE, 0, 8);
    CHECK_EQ(mem_load64(&maps[1], 0), 0);
    mem_load_fence(&maps[1], SIM_NO_SITE);
    CHECK_EQ(mem_load64(&maps[1], 0), ONE);
    end();
}

static unsigned halves; /* how often a line was seen half-way */
static bool over;

static void write_lines(void *arg)
{
    (void)arg;
    for (uint64_t n = 1; n <= 20; n++) {
        for (uint64_t word = 0; word < 8; word++)
            mem_store64(&maps[0], word * 8, n);
        mem_clean(&maps[0], SIM_NO_SITE, 0, MEM_LINE);
        mem_store_fence(&maps[0], SIM_NO_SITE);
        for (uint64_t word = 0; word < 8; word++) {
            if (memory(word * 8) != n)
                sim_fail("word %u has not arrived", (unsigned)word);
        }
    }
    over = true;
}

static void look_on(void *arg)
{
    (void)arg;
    for (; !over; sim_rest()) {
        unsigned same = 0;

        for (uint64_t word = 0; word < 8; word++)
            same += memory(word * 8) == memory(0);
        halves += same < 8;
    }
}

static unsigned halves_under(enum sim_adversary adversary)
{
    halves = 0;
    over = false;
    begin(adversary);
    sim_actor(0, write_lines, NULL);
    sim_actor(1, look_on, NULL);
    sim_go();
    end();
    return halves;
}

static void test_torn(void)
{
    TEST("a line arrives in pieces of eight bytes where it may, and is whole after the fence");
    CHECK_EQ(halves_under(SIM_LAZY), 0);
    CHECK_EQ(halves_under(SIM_REORDER), 0);
    CHECK(halves_under(SIM_TORN) > 0);
}

static void test_buffered(void)
{
    TEST("on coherent memory a host sees its own stores at once, the others after the fence at the latest");
    begin(SIM_BUFFERED);
    mem_store64(&maps[0], 0, ONE);
    mem_store64(&maps[0], 0, TWO);
    CHECK_EQ(mem_load64(&maps[0], 0), TWO);
    mem_full_fence(&maps[0], SIM_NO_SITE);
    CHECK_EQ(mem_load64(&maps[1], 0), TWO);
    end();
}

static void test_drop(void)
{
    struct sim_conf conf = {.adversary = SIM_LAZY, .hosts = 2, .bytes = 4096, .drop = MEM_SITE_META_CLEAN};
    struct sim_report report;
    struct cxl_mem mem;

    TEST("a dropped site does nothing and is counted; the others do what they do");
    sim_open(&conf);
    mem = sim_mem(0);
    CHECK_EQ(cxl_mem_write(&mem, 0, "whatever", 8), 0);
    CHECK_EQ(memory(0), 0);
    sim_close(&report);
    CHECK_EQ(report.hits[MEM_SITE_META_CLEAN], 1);
    CHECK_EQ(report.hits[MEM_SITE_META_FENCE], 1);
    CHECK_EQ(report.hits[MEM_SITE_SLOT_CLEAN], 0);
}

int main(void)
{
    test_caches_are_private();
    test_copies();
    test_flushes_wait();
    test_torn();
    test_buffered();
    test_drop();
    return 0;
}
