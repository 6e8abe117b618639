/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "fixture.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "crc.h"
#include "idle.h"

void fixture_memory(struct fixture *f, enum cxl_coherence coherence, uint32_t features)
{
    uint32_t slot_bytes = f->slot_bytes ? f->slot_bytes : SLOT_BYTES;
    uint64_t rings = 2 * CBD_PAGE, data = 2ULL * DEPTH * slot_bytes;
    int fd = memfd_create("transport", MFD_CLOEXEC);
    uint8_t *area;

    f->channel_bytes = CBD_CHANNEL_RINGS + rings + data;
    f->mem = (struct cxl_mem){.len = CHANNELS * f->channel_bytes, .coherence = coherence};
    CHECK_EQ(ftruncate(fd, (off_t)f->mem.len), 0);
    area = mmap(NULL, f->mem.len + 2 * CBD_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(area != MAP_FAILED);
    f->mem.base = mmap(area + CBD_PAGE, f->mem.len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    CHECK(f->mem.base == area + CBD_PAGE);
    close(fd);
    for (uint32_t i = 0; i < CHANNELS; i++)
        f->conf[i] = (struct cbd_channel_conf){.channel_off = i * f->channel_bytes,
                                               .ring_depth = DEPTH,
                                               .slot_bytes = slot_bytes,
                                               .epoch = 1,
                                               .features = features};
}

void fixture_file(struct fixture *f)
{
    char path[] = "/tmp/cxl-core-test-XXXXXX";

    f->fd = mkstemp(path);
    CHECK(f->fd >= 0);
    unlink(path);
    CHECK_EQ(ftruncate(f->fd, CAPACITY), 0);
}

void fixture_backend(struct fixture *f, int fd, uint32_t read_only)
{
    struct cbd_backend_conf conf = {.fd = fd,
                                    .is_block = f->is_block,
                                    .read_only = read_only,
                                    .logical_block_size = BLOCK,
                                    .capacity = CAPACITY,
                                    .fence_off = FENCE_OFF,
                                    .host_epoch = HOST_EPOCH,
                                    .engine = f->engine};

    CHECK_EQ(cbd_backend_new(&f->mem, &conf, &f->backend), 0);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_backend_add(f->backend, &f->conf[i]), 0);
}

void fixture_start(struct fixture *f, enum cxl_coherence coherence, uint32_t features)
{
    *f = (struct fixture){.engine = f->engine, .slot_bytes = f->slot_bytes};
    fixture_memory(f, coherence, features);
    fixture_file(f);
    fixture_backend(f, f->fd, 0);
    for (uint32_t i = 0; i < CHANNELS; i++)
        CHECK_EQ(cbd_queue_new(&f->mem, &f->conf[i], &f->queue[i]), 0);
}

void fixture_stop(struct fixture *f)
{
    for (uint32_t i = 0; i < CHANNELS; i++)
        cbd_queue_free(f->queue[i]);
    cbd_backend_free(f->backend);
    if (f->fd > 0)
        close(f->fd);
    munmap(f->mem.base - CBD_PAGE, f->mem.len + 2 * CBD_PAGE);
}

bool engine_works(enum cbd_engine engine)
{
    uint8_t line[CBD_LINE] __attribute__((aligned(CBD_LINE)));
    struct cxl_mem mem = {.base = line, .len = sizeof(line)};
    struct cbd_backend_conf conf = {.logical_block_size = BLOCK, .capacity = BLOCK, .engine = engine};
    struct cbd_backend *be;

    if (cbd_backend_new(&mem, &conf, &be))
        return false;
    CHECK_EQ(cbd_backend_engine(be), engine);
    cbd_backend_free(be);
    return true;
}

const char *engine_name(enum cbd_engine engine)
{
    static const char *const names[] = {"auto", "sync", "io_uring", "inline"};

    return names[engine];
}

/* By words, because the handlers look at the line at any time. */
void raise_fence(const struct fixture *f, uint64_t epoch)
{
    struct cbd_fence_line line = {.epoch = epoch};
    struct mem_map map;

    CHECK_EQ(mem_map_init(&map, &f->mem), 0);
    line.crc = cxl_crc32c(0, &line, offsetof(struct cbd_fence_line, crc));
    mem_store64(&map, FENCE_OFF, line.epoch);
    mem_store64(&map, FENCE_OFF + 8, (uint64_t)line.crc << 32 | line.zero);
}

int32_t do_io(struct fixture *f, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, void *buf)
{
    struct cbd_completion done;

    CHECK_EQ(cbd_queue_submit(f->queue[0], op, flags, offset, len, buf, 42), 0);
    CHECK_EQ(cbd_queue_wait(f->queue[0], &done, 1, WAIT_US), 1);
    CHECK_EQ(done.user, 42);
    CHECK_EQ(done.len, len);
    return done.result;
}

void hand_init(struct hand *hand, const struct fixture *f)
{
    CHECK_EQ(channel_init(&hand->ch, &f->mem, &f->conf[0]), 0);
    ring_init(&hand->submissions, &hand->ch.map, hand->ch.submissions, DEPTH, f->conf[0].epoch);
    ring_init(&hand->completions, &hand->ch.map, hand->ch.completions, DEPTH, f->conf[0].epoch);
}

void hand_consume(struct ring *ring, struct cbd_slot *slot)
{
    uint64_t rereads = 0, start = idle_now_ns();

    for (;;) {
        enum ring_got got = ring_consume(ring, slot, &rereads);

        CHECK(got == RING_EMPTY || got == RING_SLOT);
        if (got == RING_SLOT)
            return;
        CHECK(idle_now_ns() - start < WAIT_US * 1000);
        idle_sleep(20000);
    }
}

void hand_produce_torn(struct ring *ring, struct cbd_slot *slot)
{
    uint64_t off = ring->off + (ring->seq & (ring->depth - 1)) * sizeof(*slot);

    /* What is published first has another epoch, hence nobody sees it; then the epoch is made right and the CRC is not. */
    ring->epoch++;
    ring_produce(ring, slot);
    ring->epoch--;
    slot->epoch = ring->epoch;
    mem_store64(ring->map, off + 8, (uint64_t)slot->epoch | (uint64_t)slot->op << 32 | (uint64_t)slot->flags << 40 |
                                        (uint64_t)slot->tag << 48);
}

struct cbd_stats queue_stats(const struct fixture *f)
{
    struct cbd_stats s;

    cbd_queue_stats(f->queue[0], &s);
    return s;
}

struct cbd_stats backend_stats(const struct fixture *f)
{
    struct cbd_stats s;

    cbd_backend_stats(f->backend, &s);
    return s;
}
