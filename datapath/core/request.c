/* SPDX-License-Identifier: GPL-3.0-or-later */
#define _GNU_SOURCE
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

#include "cxl_core.h"

static enum phase first_phase(uint8_t op)
{
    if (op == CBD_FLUSH)
        return PHASE_SYNC;
    return op == CBD_READ || op == CBD_WRITE ? PHASE_MOVE : PHASE_ALLOCATE;
}

void request_begin(struct request *r, const struct cbd_slot *slot)
{
    r->slot = *slot;
    r->phase = first_phase(slot->op);
    r->done = 0;
    r->answer_crc = 0;
    r->result = 0;
    r->in_flight = true;
}

/* A write with FUA is one call that ends when the bytes are stable: devices do that for less than a flush of everything. */
static struct step move_step(const struct request *r)
{
    bool read = r->slot.op == CBD_READ;
    uint32_t todo = r->slot.len - r->done;

    return (struct step){
        .kind = read ? STEP_READ : STEP_WRITE,
        .flags = (r->slot.flags & CBD_SLOT_FUA) ? RWF_DSYNC : 0,
        .buf = (read ? r->answer : r->bounce) + r->done,
        .len = read && r->read_max && todo > r->read_max ? r->read_max : todo,
        .offset = r->slot.offset + r->done,
    };
}

static struct step allocate_step(const struct request *r, const struct device *dev)
{
    struct step step = {.kind = STEP_ALLOCATE, .len = r->slot.len, .offset = r->slot.offset};

    if (r->slot.op == CBD_WRITE_ZEROES)
        step.flags = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    else if (dev->is_block)
        step.kind = STEP_BLKDISCARD; /* to punch a hole into a block device means zeroes, which not every one has cheaply */
    else
        step.flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    return step;
}

static struct step zero_step(const struct request *r)
{
    uint32_t todo = r->slot.len - r->done;

    return (struct step){
        .kind = STEP_WRITE,
        .buf = r->bounce,
        .len = todo < r->bounce_len ? todo : r->bounce_len,
        .offset = r->slot.offset + r->done,
    };
}

bool request_next(const struct request *r, const struct device *dev, struct step *step)
{
    switch (r->phase) {
    case PHASE_MOVE:
        *step = move_step(r);
        break;
    case PHASE_ALLOCATE:
        *step = allocate_step(r, dev);
        break;
    case PHASE_ZERO:
        *step = zero_step(r);
        break;
    case PHASE_SYNC:
        *step = (struct step){.kind = STEP_SYNC};
        break;
    case PHASE_END:
        return false;
    }
    return true;
}

static void end(struct request *r, int32_t result)
{
    r->phase = PHASE_END;
    r->result = result;
}

static void end_phase(struct request *r)
{
    bool unstable = (r->slot.flags & CBD_SLOT_FUA) && (r->phase == PHASE_ALLOCATE || r->phase == PHASE_ZERO);

    if (unstable)
        r->phase = PHASE_SYNC;
    else
        end(r, 0);
}

/* The kernel may do less than it was asked for; doing nothing at all means that the device ends before its capacity. */
static void moved(struct request *r, uint32_t bytes)
{
    r->done += bytes;
    if (!bytes)
        end(r, -EIO);
    else if (r->done >= r->slot.len)
        end_phase(r);
}

void request_step_ended(struct request *r, int32_t result)
{
    if (result == -EINTR || result == -EAGAIN)
        return; /* nothing has happened: the same step again */
    if (result == -EOPNOTSUPP && r->phase == PHASE_ALLOCATE && r->slot.op == CBD_WRITE_ZEROES) {
        memset(r->bounce, 0, r->bounce_len);
        r->phase = PHASE_ZERO;
    } else if (result < 0) {
        end(r, result);
    } else if (r->phase == PHASE_MOVE || r->phase == PHASE_ZERO) {
        moved(r, (uint32_t)result);
    } else {
        end_phase(r);
    }
}
