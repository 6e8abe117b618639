/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A request of a blkdev as a sequence of steps: what has to be done next, given how the steps before ended. Nothing here waits or
 * touches the device, so every engine performs the same requests in the same way.
 */
#ifndef CXL_REQUEST_H
#define CXL_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "cbd_format.h"
#include "device.h"

enum phase {
    PHASE_END,
    PHASE_MOVE,     /* payload between bounce and device */
    PHASE_ALLOCATE, /* the file system or the device discards or zeroes by itself */
    PHASE_ZERO,     /* ... it cannot: zeroes are written */
    PHASE_SYNC,
};

struct request {
    struct cbd_slot slot; /* private copy of a submission that passed every check */
    uint8_t *bounce;      /* payload to write is checked and used here, out of the peer's reach; the same for all of the tag */
    uint8_t *answer;      /* what is read goes here: the bounce, or the data slot of the completion; the same for all of the tag */
    uint32_t bounce_len;
    uint32_t read_max;    /* bytes that one step reads at most; 0: all at once; the same for all of the tag */
    enum phase phase;
    uint32_t done;       /* bytes that the phase has behind it */
    uint32_t answer_crc; /* of what was read, for whoever sums each step while it is near */
    int32_t result;      /* once it ended: 0 or a negated errno */
    bool in_flight;      /* the tag, and with it the bounce, is in use */
};

void request_begin(struct request *r, const struct cbd_slot *slot);
/* The next step; false: the request has ended. */
bool request_next(const struct request *r, const struct device *dev, struct step *step);
/* result: as of device_perform(), of the step that request_next() gave. */
void request_step_ended(struct request *r, int32_t result);

#endif
