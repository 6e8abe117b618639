/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A real queue against arbitrary completions, between arbitrary calls of its user. Each request must be reported once, unless it
 * was abandoned, and its buffer must not be touched afterwards: it is freed at once.
 */
#include <errno.h>

#include "../tests/fixture.h"
#include "crc.h"
#include "fuzz.h"
#include "queue.h"

#define USERS 64U

enum call { SUBMIT, ANSWER, TORN_ANSWER, RAW_ANSWER, POLL, WAIT, REBIND, OFFLINE, ABANDON, HOLD, CALLS };

static struct fixture f;
static struct hand hand;
static struct cbd_queue *queue;
static struct cbd_slot taken[DEPTH * 2]; /* submissions that were not answered yet */
static uint32_t taken_count, epoch;
static uint8_t *buffers[USERS]; /* of what is under way */
static bool waiting[USERS];
static uint32_t users;

static struct cbd_channel_conf rings(uint32_t channel)
{
    struct cbd_channel_conf conf = f.conf[channel];

    conf.epoch = ++epoch;
    return conf;
}

static void follow(const struct cbd_channel_conf *conf)
{
    CHECK_EQ(channel_init(&hand.ch, &f.mem, conf), 0);
    ring_init(&hand.submissions, &hand.ch.map, hand.ch.submissions, DEPTH, conf->epoch);
    ring_init(&hand.completions, &hand.ch.map, hand.ch.completions, DEPTH, conf->epoch);
    taken_count = 0;
}

static void begin(uint8_t flags)
{
    struct cbd_channel_conf conf;

    if (!f.mem.base)
        fixture_memory(&f, CXL_COHERENCE_HARDWARE, 0);
    memset(f.mem.base, 0, f.mem.len);
    f.mem.coherence = flags & 2 ? CXL_COHERENCE_SOFTWARE : CXL_COHERENCE_HARDWARE;
    for (uint32_t i = 0; i < CHANNELS; i++)
        f.conf[i].features = flags & 1 ? CBD_FEATURE_DATA_CRC : 0;
    epoch = users = 0;
    conf = rings(0);
    CHECK_EQ(cbd_queue_new(&f.mem, &conf, &queue), 0);
    follow(&conf);
}

static void forget(uint64_t user)
{
    free(buffers[user]);
    buffers[user] = NULL;
    waiting[user] = false;
}

static void submit(struct input *in)
{
    uint8_t op = take8(in) % 8, flags = take8(in) % 4;
    uint64_t offset = take64(in);
    uint32_t len = take8(in) * 256U, user = users % USERS;
    int err;

    if (waiting[user])
        return;
    buffers[user] = malloc(len ? len : 1); /* exact, so that one byte too many is found */
    CHECK(buffers[user]);
    memset(buffers[user], 0x5a, len);
    err = cbd_queue_submit(queue, op, flags, offset, len, buffers[user], user);
    waiting[user] = true;
    if (err)
        forget(user);
    users += !err;
    CHECK(err <= 0 && cbd_queue_in_flight(queue) <= DEPTH);
}

static void take_submissions(void)
{
    uint64_t rereads = 0;
    struct cbd_slot s;

    while (taken_count < DEPTH * 2 && ring_consume(&hand.submissions, &s, &rereads) == RING_SLOT)
        taken[taken_count++] = s;
    CHECK_EQ(rereads, 0);
}

/* An honest answer to some submission, and what the input makes of it. */
static struct cbd_slot answer(struct input *in)
{
    uint8_t which = take8(in);
    struct cbd_slot s, done = {.credit = (uint32_t)hand.submissions.seq};

    take_submissions();
    if (taken_count) {
        struct cbd_slot *place = &taken[which % taken_count];

        s = *place;
        *place = taken[--taken_count];
        done = (struct cbd_slot){.op = s.op, .tag = s.tag, .tid = s.tid, .offset = s.offset, .len = s.len, .credit = done.credit};
        if (s.op == CBD_READ) {
            done.data_off = s.tag * SLOT_BYTES;
            done.data_len = s.len;
            done.flags = f.conf[0].features ? CBD_SLOT_DATA_CRC : 0;
            done.data_crc = f.conf[0].features ? cxl_crc32c(0, f.mem.base + hand.ch.responses + done.data_off, s.len) : 0;
        }
    }
    if (which & 0x80)
        spoil(in, &done);
    return done;
}

static void put_raw(struct input *in)
{
    uint64_t place = hand.completions.seq % DEPTH * sizeof(struct cbd_slot);

    take(in, f.mem.base + hand.ch.completions + place, sizeof(struct cbd_slot));
}

static void check_done(const struct cbd_completion *done, int n)
{
    for (int i = 0; i < n; i++) {
        CHECK(done[i].user < USERS && waiting[done[i].user]);
        CHECK(done[i].result <= 0 && done[i].result >= -CBD_MAX_ERRNO);
        forget(done[i].user);
    }
    CHECK(cbd_queue_in_flight(queue) <= DEPTH);
}

static void rebind(struct input *in)
{
    uint8_t how = take8(in);
    struct cbd_channel_conf conf = rings(how % CHANNELS);
    int err;

    if (how & 0x80)
        take(in, &conf, sizeof(conf));
    err = cbd_queue_check_rebind(queue, &conf);
    CHECK_EQ(cbd_queue_rebind(queue, &conf), err);
    if (!err)
        follow(&conf);
}

static void call(struct input *in)
{
    struct cbd_completion done[DEPTH];
    struct cbd_slot s;
    int32_t error;
    uint64_t user;

    switch (take8(in) % CALLS) {
    case SUBMIT:
        submit(in);
        break;
    case ANSWER:
        s = answer(in);
        ring_produce(&hand.completions, &s);
        break;
    case TORN_ANSWER:
        s = answer(in);
        hand_produce_torn(&hand.completions, &s);
        break;
    case RAW_ANSWER:
        put_raw(in);
        break;
    case POLL:
        check_done(done, cbd_queue_poll(queue, done, take8(in) % (DEPTH + 1)));
        break;
    case WAIT:
        check_done(done, cbd_queue_wait(queue, done, 1 + take8(in) % DEPTH, 0));
        break;
    case REBIND:
        rebind(in);
        break;
    case OFFLINE:
        take(in, &error, sizeof(error));
        cbd_queue_set_offline(queue, error);
        break;
    case ABANDON:
        user = take8(in) % USERS;
        cbd_queue_abandon(queue, user);
        forget(user);
        break;
    default:
        cbd_queue_hold(queue);
    }
}

/* Whatever happened: in the end each request comes back. */
static void finish(void)
{
    struct cbd_completion done[3];
    int n;

    cbd_queue_set_offline(queue, -ENODEV);
    while ((n = cbd_queue_poll(queue, done, 3)))
        check_done(done, n);
    CHECK_EQ(cbd_queue_in_flight(queue), 0);
    for (uint32_t user = 0; user < USERS; user++)
        CHECK(!waiting[user]);
    cbd_queue_free(queue);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, data + size};

    begin(take8(&in));
    while (input_left(&in))
        call(&in);
    finish();
    return 0;
}
