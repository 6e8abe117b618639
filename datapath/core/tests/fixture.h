/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A mapping with channels, a backing file, and both ends of the channels, real ones or hand-driven rings.
 */
#ifndef CXL_TESTS_FIXTURE_H
#define CXL_TESTS_FIXTURE_H

#include "channel.h"
#include "check.h"
#include "cxl_core.h"
#include "protocol.h"
#include "ring.h"

#define DEPTH 8U
#define SLOT_BYTES 8192U
#define CAPACITY (1U << 20)
#define BLOCK 512U
#define CHANNELS 2U
#define FENCE_OFF 3072U /* in a part of channel 0 that the format does not use */
#define HOST_EPOCH 7U
#define WAIT_US 60000000ULL /* only a hang takes as long */

struct fixture {
    enum cbd_engine engine; /* of the backend, and */
    uint32_t is_block;      /* what it is told of its descriptor; both are to be set before it is made */
    uint32_t slot_bytes;    /* 0: SLOT_BYTES; to be set before the memory is made */
    struct cxl_mem mem;
    uint64_t channel_bytes;
    struct cbd_channel_conf conf[CHANNELS];
    int fd; /* backing file of CAPACITY bytes */
    struct cbd_backend *backend;
    struct cbd_queue *queue[CHANNELS];
};

/* Memory between two inaccessible pages, so that one byte too far is a fault; the last channel ends at its end. */
void fixture_memory(struct fixture *f, enum cxl_coherence coherence, uint32_t features);
void fixture_file(struct fixture *f);
void fixture_backend(struct fixture *f, int fd, uint32_t read_only);
/* All of it, and the queues; keeps f->engine and f->slot_bytes. */
void fixture_start(struct fixture *f, enum cxl_coherence coherence, uint32_t features);
void fixture_stop(struct fixture *f);

/* False where the kernel refuses io_uring. */
bool engine_works(enum cbd_engine engine);
const char *engine_name(enum cbd_engine engine);
#define FOR_EACH_ENGINE(engine) for (enum cbd_engine engine = CBD_ENGINE_SYNC; engine <= CBD_ENGINE_INLINE; engine++)
#define SKIP_WITHOUT(engine) \
    do { \
        if (!engine_works(engine)) \
            SKIP("the kernel refuses io_uring here, so that engine was not tested"); \
        printf("%s engine\n", engine_name(engine)); \
    } while (0)

/* Writes the fence line of the backend's host, as another host would. */
void raise_fence(const struct fixture *f, uint64_t epoch);

/* One request on queue 0, to its end; returns its result. */
int32_t do_io(struct fixture *f, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, void *buf);

/* The rings of channel 0 for a hand-driven end. */
struct hand {
    struct channel ch;
    struct ring submissions, completions;
};
void hand_init(struct hand *hand, const struct fixture *f);
/* Waits for the next slot, which must be valid. */
void hand_consume(struct ring *ring, struct cbd_slot *slot);
/* Publishes a slot with the right number and epoch that fails its CRC. */
void hand_produce_torn(struct ring *ring, struct cbd_slot *slot);

struct cbd_stats queue_stats(const struct fixture *f);
struct cbd_stats backend_stats(const struct fixture *f);

#endif
