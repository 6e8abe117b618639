/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Conventions of both ends of a channel that follow from docs/cbd-format.md.
 */
#ifndef CXL_PROTOCOL_H
#define CXL_PROTOCOL_H

#include <stdbool.h>
#include <stdint.h>

#include "cbd_format.h"
#include "cxl_core.h"

/* Tag of a completion that answers a submission whose slot could not be read. A request takes one slot, so its tid is the seq of
 * its submission, and the tid alone names the request. */
#define CBD_NO_TAG 0xffffU

#define CBD_MAX_ERRNO 4095

static inline bool cbd_op_known(uint32_t op)
{
    return op >= CBD_WRITE && op <= CBD_FLUSH;
}

static inline bool cbd_op_has_payload(uint32_t op)
{
    return op == CBD_READ || op == CBD_WRITE;
}

static inline bool cbd_op_changes_medium(uint32_t op)
{
    return op == CBD_WRITE || op == CBD_DISCARD || op == CBD_WRITE_ZEROES;
}

static inline bool cbd_op_may_fua(uint32_t op)
{
    return cbd_op_changes_medium(op);
}

/* Both ends number what they sent with 64 bits and tell each other 32 of them: how far the peer is behind us. */
static inline uint32_t cbd_behind(uint64_t sent, uint32_t credit)
{
    return (uint32_t)sent - credit;
}

#endif
