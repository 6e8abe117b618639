/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a blkdev can say wrong in a submission. The slot is a private copy: what was checked cannot change any more.
 */
#ifndef CXL_SUBMISSION_H
#define CXL_SUBMISSION_H

#include <stdint.h>

#include "channel.h"
#include "device.h"

/* -EINVAL when a field is not what the format, the channel and the device allow; 0: every field can be used. */
int submission_check(const struct channel *ch, const struct device *dev, const struct cbd_slot *slot);

/* taken, answered: submissions so far, this one included, and completions so far. Whether the completion of this one has a free
 * slot once everything before it is answered. */
bool submission_credit_ok(const struct channel *ch, const struct cbd_slot *slot, uint64_t taken, uint64_t answered);

#endif
