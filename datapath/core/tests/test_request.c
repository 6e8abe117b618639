/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Requests as sequences of steps, against a device that is an array and does as little as it may.
 */
#define _GNU_SOURCE
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/uio.h>

#include "check.h"
#include "cxl_core.h"

#define BYTES 65536U
#define BOUNCE 4096U

static uint8_t medium[BYTES], stable[BYTES], bounce[BOUNCE];
static const struct device file = {.logical_block_size = 512, .capacity = BYTES}, block = {.is_block = true};

static struct request begin(uint8_t op, uint8_t flags, uint64_t offset, uint32_t len)
{
    struct request r = {.bounce = bounce, .bounce_len = BOUNCE, .answer = bounce};

    request_begin(&r, &(struct cbd_slot){.op = op, .flags = flags, .offset = offset, .len = len});
    CHECK(r.in_flight);
    return r;
}

static struct step next(const struct request *r, const struct device *dev)
{
    struct step step;

    CHECK(request_next(r, dev, &step));
    return step;
}

static void check_end(const struct request *r, int32_t result)
{
    struct step step;

    CHECK(!request_next(r, &file, &step));
    CHECK_EQ(r->result, result);
}

static void test_continued(void)
{
    struct request r = begin(CBD_WRITE, CBD_SLOT_FUA, 8192, 4096);
    struct step step;

    TEST("a short step is continued where it ended, an interrupted one is repeated");
    request_step_ended(&r, 1024);
    step = next(&r, &file);
    CHECK(step.kind == STEP_WRITE && step.offset == 9216 && step.len == 3072 && step.buf == bounce + 1024);
    CHECK_EQ(step.flags, RWF_DSYNC);
    request_step_ended(&r, -EINTR);
    request_step_ended(&r, -EAGAIN);
    CHECK_EQ(next(&r, &file).offset, 9216);
    request_step_ended(&r, 3072);
    check_end(&r, 0);
}

static void test_pieces(void)
{
    struct request r = begin(CBD_READ, 0, 8192, 4096);

    TEST("reads go in pieces where they are to, writes never do");
    r.read_max = 3072;
    CHECK_EQ(next(&r, &file).len, 3072);
    request_step_ended(&r, 3072);
    CHECK(next(&r, &file).len == 1024 && next(&r, &file).offset == 11264);
    request_step_ended(&r, 1024);
    check_end(&r, 0);
    r = begin(CBD_WRITE, CBD_SLOT_FUA, 0, 4096);
    r.read_max = 3072;
    CHECK_EQ(next(&r, &file).len, 4096);
}

static void test_errors(void)
{
    struct request r = begin(CBD_READ, 0, 0, 4096);

    TEST("errors end a request; so does a device that ends early");
    request_step_ended(&r, 512);
    request_step_ended(&r, 0);
    check_end(&r, -EIO);
    r = begin(CBD_WRITE, 0, 0, 4096);
    request_step_ended(&r, 512);
    request_step_ended(&r, -ENOSPC);
    check_end(&r, -ENOSPC);
    r = begin(CBD_FLUSH, 0, 0, 0);
    CHECK_EQ(next(&r, &file).kind, STEP_SYNC);
    request_step_ended(&r, -EIO);
    check_end(&r, -EIO);
    r = begin(CBD_DISCARD, CBD_SLOT_FUA, 0, 4096);
    request_step_ended(&r, -EOPNOTSUPP);
    check_end(&r, -EOPNOTSUPP);
}

static void test_discard(void)
{
    struct request r = begin(CBD_DISCARD, 0, 512, 1U << 30);
    struct step step = next(&r, &file);

    TEST("discard: a hole in a file, an ioctl for a block device, whatever its length");
    CHECK(step.kind == STEP_ALLOCATE && step.flags == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE));
    CHECK(step.offset == 512 && step.len == 1U << 30);
    CHECK_EQ(next(&r, &block).kind, STEP_BLKDISCARD);
    request_step_ended(&r, 0);
    check_end(&r, 0);
}

/* What a lazy kernel does: often nothing, seldom everything. */
static int32_t perform(const struct step *step, uint64_t *state)
{
    uint32_t part = step->len ? 1 + (uint32_t)(rng(state) % step->len) : 0;

    CHECK(step->offset + step->len <= BYTES);
    if (rng(state) % 4 == 0)
        return rng(state) % 2 ? -EINTR : -EAGAIN;
    switch (step->kind) {
    case STEP_READ:
        memcpy(step->buf, medium + step->offset, part);
        break;
    case STEP_WRITE:
        memcpy(medium + step->offset, step->buf, part);
        if (step->flags & RWF_DSYNC)
            memcpy(stable + step->offset, step->buf, part);
        break;
    case STEP_SYNC:
        memcpy(stable, medium, BYTES);
        return 0;
    case STEP_ALLOCATE:
        if (rng(state) % 2 && (step->flags & FALLOC_FL_ZERO_RANGE))
            return -EOPNOTSUPP;
        memset(medium + step->offset, 0, step->len);
        return 0;
    case STEP_BLKDISCARD:
        CHECK(false);
    }
    return (int32_t)part;
}

static void test_random(void)
{
    static uint8_t payload[BOUNCE], model[BYTES];
    uint64_t state = 3;

    TEST("random requests on a lazy device end with what was asked for, stable with FUA");
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t op = (uint8_t)(CBD_WRITE + rng(&state) % 4), fua = op == CBD_READ ? 0 : (uint8_t)(rng(&state) % 2);
        uint32_t len = 512 * (1 + (uint32_t)(rng(&state) % (op <= CBD_READ ? 8 : 32)));
        uint64_t offset = rng(&state) % (BYTES - len + 1);
        struct request r = begin(op, fua, offset, len);
        struct step step;

        fill_random(payload, 64, &state);
        memcpy(bounce, payload, BOUNCE);
        while (request_next(&r, &file, &step))
            request_step_ended(&r, perform(&step, &state));
        CHECK_EQ(r.result, 0);
        if (op == CBD_WRITE)
            memcpy(model + offset, payload, len);
        else if (op != CBD_READ)
            memset(model + offset, 0, len);
        CHECK_EQ(memcmp(medium, model, BYTES), 0);
        if (op == CBD_READ)
            CHECK_EQ(memcmp(bounce, model + offset, len), 0);
        if (fua)
            CHECK_EQ(memcmp(stable + offset, model + offset, len), 0);
    }
}

int main(void)
{
    test_continued();
    test_pieces();
    test_errors();
    test_discard();
    test_random();
    return 0;
}
