/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A real handler against arbitrary submissions. Each must be answered once; the backing file must be what a model makes of those
 * that were answered with 0, and nothing but completions and responses may be written to shared memory.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../tests/fixture.h"
#include "crc.h"
#include "fuzz.h"

#define SLOTS_MAX 48U /* of one input */
#define MEDIUM (64U << 10)

enum mode { AS_IT_IS = 1, TORN = 2, WAIT = 4, RAW = 8, RIGHT_CRC = 16 };
enum input_flag { DATA_CRC = 1, READ_ONLY = 2, SOFTWARE = 4 };

static struct fixture f;
static struct hand hand;
static struct cbd_channel_conf conf;
static uint8_t *medium, model[MEDIUM];     /* the file, mapped, and what it must be */
static uint8_t *shared, *request_data;       /* our part of channel 0 */
static uint8_t submitted[DEPTH * 64], payload[DEPTH * SLOT_BYTES];
static struct cbd_slot sent[SLOTS_MAX + 1];  /* by seq */
static bool readable[SLOTS_MAX + 1];
static uint64_t newest[DEPTH];               /* by tag: seq of the last submission */

static void set_up(void)
{
    uint64_t state = 1;

    fixture_memory(&f, CXL_COHERENCE_HARDWARE, 0);
    f.fd = memfd_create("medium", MFD_CLOEXEC);
    CHECK_EQ(ftruncate(f.fd, MEDIUM), 0);
    medium = mmap(NULL, MEDIUM, PROT_READ, MAP_SHARED, f.fd, 0);
    CHECK(medium != MAP_FAILED);
    fill_random(payload, sizeof(payload), &state);
    shared = f.mem.base + CBD_CHANNEL_RINGS;
    prctl(PR_SET_TIMERSLACK, 1); /* a handler looks at a torn slot many times, and sleeps in between */
}

static void start_handler(void)
{
    struct cbd_backend_conf backend = {.fd = f.fd,
                                       .logical_block_size = BLOCK,
                                       .capacity = MEDIUM,
                                       .fence_off = FENCE_OFF,
                                       .host_epoch = HOST_EPOCH,
                                       .engine = CBD_ENGINE_SYNC, /* one after the other: the model need not know orders */
                                       .idle = {.spin_us = 1, .idle_cap_us = 1}};

    CHECK_EQ(cbd_backend_new(&f.mem, &backend, &f.backend), 0);
    CHECK_EQ(cbd_backend_add(f.backend, &conf), 0);
}

static void begin(uint8_t flags)
{
    CHECK_EQ(ftruncate(f.fd, 0), 0);
    CHECK_EQ(ftruncate(f.fd, MEDIUM), 0);
    memset(model, 0, sizeof(model));
    memset(f.mem.base, 0, f.mem.len);
    memset(submitted, 0, sizeof(submitted));
    f.mem.coherence = flags & SOFTWARE ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE;
    for (uint32_t i = 0; i < CHANNELS; i++)
        f.conf[i].features = flags & DATA_CRC ? CBD_FEATURE_DATA_CRC : 0;
    hand_init(&hand, &f);
    request_data = f.mem.base + hand.ch.requests;
    memcpy(request_data, payload, sizeof(payload));
    conf = f.conf[0];
    conf.flags = flags & READ_ONLY ? CBD_CHANNEL_READ_ONLY : 0;
    start_handler();
}

/* A request that is right as it is. */
static struct cbd_slot right(struct input *in)
{
    uint8_t what = take8(in), where = take8(in);
    struct cbd_slot s = {.op = (uint8_t)(CBD_WRITE + what % 5), .tag = where % DEPTH, .credit = (uint32_t)hand.completions.seq};

    s.tid = hand.submissions.seq + 1;
    if (s.op == CBD_FLUSH)
        return s;
    s.offset = where * (uint64_t)BLOCK;
    s.len = (1U + what / 5U % 16U) * BLOCK;
    if (s.op == CBD_WRITE) {
        s.data_off = s.tag * SLOT_BYTES;
        s.data_len = s.len;
        s.flags = f.conf[0].features ? CBD_SLOT_DATA_CRC : 0;
    }
    return s;
}

static bool payload_inside(const struct cbd_slot *s)
{
    return (uint64_t)s->data_off + s->data_len <= sizeof(payload);
}

/* What the format says of a request that succeeds, in words of our own. */
static void apply(const struct cbd_slot *s)
{
    uint8_t flags = s->flags & (uint8_t)~CBD_SLOT_FUA;

    CHECK(s->tag < DEPTH && !s->reserved && !s->result);
    if (s->op == CBD_FLUSH) {
        CHECK(!s->offset && !s->len && !s->flags && !s->data_len && !s->data_off);
        return;
    }
    CHECK(s->len && s->len % BLOCK == 0 && s->offset % BLOCK == 0 && s->offset < MEDIUM && s->len <= MEDIUM - s->offset);
    if (s->op == CBD_READ) {
        CHECK(!s->flags && s->len <= SLOT_BYTES);
        return;
    }
    CHECK(!(conf.flags & CBD_CHANNEL_READ_ONLY));
    if (s->op == CBD_WRITE) {
        CHECK(s->len <= SLOT_BYTES && s->data_len == s->len && payload_inside(s));
        CHECK_EQ(flags, conf.features ? CBD_SLOT_DATA_CRC : 0);
        if (conf.features)
            CHECK_EQ(s->data_crc, cxl_crc32c(0, payload + s->data_off, s->len));
        memcpy(model + s->offset, payload + s->data_off, s->len);
    } else {
        CHECK(s->op == CBD_DISCARD || s->op == CBD_WRITE_ZEROES);
        CHECK(!flags && !s->data_off && !s->data_len);
        memset(model + s->offset, 0, s->len);
    }
}

/* The sync engine answers in the order of the submissions. */
static void check_answer(void)
{
    struct cbd_slot done;
    const struct cbd_slot *s;

    hand_consume(&hand.completions, &done);
    s = &sent[done.seq];
    CHECK(done.result <= 0 && done.result >= -CBD_MAX_ERRNO && !done.reserved);
    if (!readable[done.seq]) {
        CHECK(done.tag == CBD_NO_TAG && done.tid == done.seq && done.result == -EIO && !done.data_len);
        return;
    }
    CHECK(done.tag == s->tag && done.tid == s->tid && done.op == s->op && done.offset == s->offset && done.len == s->len);
    if (done.result) {
        CHECK(!done.data_off && !done.data_len && !done.flags);
        return;
    }
    apply(s);
    CHECK_EQ(done.data_len, s->op == CBD_READ ? s->len : 0);
    if (s->op != CBD_READ)
        return;
    CHECK(channel_data_in_range(&hand.ch, done.data_off, done.data_len));
    if (conf.features)
        CHECK_EQ(done.data_crc, cxl_crc32c(0, model + s->offset, s->len));
    if (newest[s->tag] == done.seq) /* who uses a tag again too early has his own response overwritten */
        CHECK_EQ(memcmp(f.mem.base + hand.ch.responses + done.data_off, model + s->offset, s->len), 0);
}

static void check_answers(void)
{
    while (hand.completions.seq < hand.submissions.seq)
        check_answer();
}

static void submit(struct input *in)
{
    uint8_t mode = take8(in);
    uint64_t seq = hand.submissions.seq + 1, place = (seq - 1) % DEPTH * sizeof(struct cbd_slot);
    struct cbd_slot s;

    if (seq - 1 - hand.completions.seq == DEPTH || (mode & WAIT))
        check_answers(); /* who overtakes his own ring only overwrites what he said */
    if (mode & RAW) {
        take(in, &s, sizeof(s));
        if (s.seq == seq && s.epoch == conf.epoch)
            s.seq = 0; /* the ring does that in one order of stores; memcpy() has none */
        memcpy(shared + place, &s, sizeof(s));
        memcpy(submitted + place, &s, sizeof(s));
        return;
    }
    s = right(in);
    if (!(mode & AS_IT_IS))
        spoil(in, &s);
    if (!(mode & RIGHT_CRC) && s.op == CBD_WRITE && conf.features && payload_inside(&s))
        s.data_crc = cxl_crc32c(0, payload + s.data_off, s.data_len);
    if (mode & TORN)
        hand_produce_torn(&hand.submissions, &s);
    else
        ring_produce(&hand.submissions, &s);
    if (s.tag < DEPTH)
        newest[s.tag] = seq;
    sent[seq] = s;
    readable[seq] = !(mode & TORN);
    memcpy(submitted + place, shared + place, sizeof(s));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};
    static const uint8_t nothing[CBD_CHANNEL_RINGS];

    if (!medium)
        set_up();
    begin(take8(&in));
    while (input_left(&in) && hand.submissions.seq < SLOTS_MAX)
        submit(&in);
    check_answers();
    cbd_backend_free(f.backend);
    CHECK_EQ(memcmp(medium, model, MEDIUM), 0);
    CHECK_EQ(memcmp(submitted, shared, sizeof(submitted)), 0);
    CHECK_EQ(memcmp(payload, request_data, sizeof(payload)), 0);
    CHECK_EQ(memcmp(nothing, f.mem.base, sizeof(nothing)), 0);
    for (uint64_t off = f.conf[1].channel_off; off < f.mem.len; off += CBD_PAGE)
        CHECK_EQ(memcmp(nothing, f.mem.base + off, CBD_PAGE), 0);
    return 0;
}
