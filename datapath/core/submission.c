/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "submission.h"

#include <errno.h>

#include "protocol.h"

static bool payload_fields_ok(const struct channel *ch, const struct cbd_slot *s)
{
    if (s->op != CBD_WRITE)
        return !s->data_off && !s->data_len;
    return s->data_len == s->len && channel_data_in_range(ch, s->data_off, s->data_len);
}

static uint8_t expected_flags(const struct channel *ch, const struct cbd_slot *s)
{
    uint8_t flags = cbd_op_may_fua(s->op) ? s->flags & CBD_SLOT_FUA : 0;

    return s->op == CBD_WRITE && channel_data_crc(ch) ? flags | CBD_SLOT_DATA_CRC : flags;
}

int submission_check(const struct channel *ch, const struct device *dev, const struct cbd_slot *s)
{
    if (!cbd_op_known(s->op) || s->tag >= ch->conf.ring_depth || s->reserved || s->result)
        return -EINVAL;
    if (s->flags != expected_flags(ch, s) || !payload_fields_ok(ch, s))
        return -EINVAL;
    if (s->op == CBD_FLUSH)
        return s->offset || s->len ? -EINVAL : 0;
    if (cbd_op_has_payload(s->op) && s->len > ch->conf.slot_bytes)
        return -EINVAL;
    return device_check(dev, s->offset, s->len);
}

bool submission_credit_ok(const struct channel *ch, const struct cbd_slot *slot, uint64_t taken, uint64_t answered)
{
    uint64_t unanswered = taken - answered;

    return unanswered <= ch->conf.ring_depth && cbd_behind(answered, slot->credit) <= ch->conf.ring_depth - unanswered;
}
