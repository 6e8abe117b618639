/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * cxl_core: the C half of cxl-datapathd. It moves bytes and queues; it has no policy and no globals.
 *
 * Policy (who may use which channel, what a format looks like, when a peer is dead) is Python and reaches this library as plain
 * numbers that were validated there; what the other host can write (slots, payload) is validated here, for each access.
 *
 * Unless a line says otherwise a function returns 0 or a negated errno.
 */
#ifndef CXL_CORE_H
#define CXL_CORE_H

#include <stddef.h>
#include <stdint.h>

#define CXL_API __attribute__((visibility("default")))
#define CXL_CORE_ABI 3

#ifdef __cplusplus
extern "C" {
#endif

CXL_API uint32_t cxl_core_abi(void);

/* ---- shared memory ---------------------------------------------------------------------------------------------- */

enum cxl_coherence { CXL_COHERENCE_HARDWARE = 0, CXL_COHERENCE_SOFTWARE = 1 };

/* A mapping of a transport (or of any shared range). The mapping belongs to the caller and outlives every object made on it. */
struct cxl_mem {
    uint8_t *base;
    uint64_t len;
    uint32_t coherence; /* enum cxl_coherence */
    uint32_t reserved;
};

/* Invalidates our cached lines of [off, off + len), then copies them out. -ERANGE when outside the mapping. */
CXL_API int cxl_mem_read(const struct cxl_mem *mem, uint64_t off, void *dst, uint64_t len);
/* Copies in, writes the lines back, and ends with a full fence, on coherent memory too: on return another host that invalidates first
 * sees the bytes, and no later read of ours was done before (who stores a claim and then looks at the others' relies on it). */
CXL_API int cxl_mem_write(const struct cxl_mem *mem, uint64_t off, const void *src, uint64_t len);
CXL_API uint32_t cxl_crc32c(uint32_t seed, const void *data, size_t len);

/* ---- channels --------------------------------------------------------------------------------------------------- */

enum cbd_feature { CBD_FEATURE_DATA_CRC = 1 };

struct cbd_channel_conf {
    uint64_t channel_off; /* of the channel in the mapping */
    uint32_t ring_depth;
    uint32_t slot_bytes;
    uint32_t epoch;
    uint32_t features; /* enum cbd_feature bits of the transport */
    uint32_t flags;    /* enum cbd_channel_flag bits */
    uint32_t host_epoch; /* queues: of this incarnation of the host */
    uint64_t fence_off;  /* queues: of the fence line of this host's entry in the mapping; 0: there is none to look at */
};

/* Backend: what would change the medium is refused with -EROFS, whatever the blkdev believes. */
enum cbd_channel_flag { CBD_CHANNEL_READ_ONLY = 1 };

enum cbd_op { CBD_WRITE = 1, CBD_READ = 2, CBD_DISCARD = 3, CBD_WRITE_ZEROES = 4, CBD_FLUSH = 5 };
enum cbd_op_flag { CBD_FUA = 1 };

/* How long a loop spins, and how it sleeps after that. Zero means the default. */
struct cbd_idle_conf {
    uint32_t spin_us;     /* default 100 */
    uint32_t idle_cap_us; /* longest sleep between two looks, default 800; up to 5000 where waking up is dear (emulated CPUs) */
};

struct cbd_stats { /* all monotonic counters */
    uint64_t submitted; /* queues: requests that were sent; those in flight are submitted - requests */
    uint64_t requests, bytes_read, bytes_written, errors;
    uint64_t bad_slots;   /* entries refused: bounds, op, state */
    uint64_t crc_retries; /* re-reads; stays 0 on coherent memory */
};

/* ---- backend: serves channels from a file descriptor -------------------------------------------------------------- */

struct cbd_backend;

/* How requests reach the device: one after the other (SYNC), many at once by io_uring (URING), or one after the other with a look
 * around after some of them only (INLINE): for devices whose bytes are in memory, where nothing ever waits. AUTO takes io_uring
 * where the kernel has it, else SYNC. */
enum cbd_engine { CBD_ENGINE_AUTO = 0, CBD_ENGINE_SYNC = 1, CBD_ENGINE_URING = 2, CBD_ENGINE_INLINE = 3 };

struct cbd_backend_conf {
    int32_t fd;            /* stays the caller's; O_DIRECT or not */
    uint32_t is_block;     /* 1: a block device (BLKDISCARD, BLKZEROOUT), 0: a file (fallocate) */
    uint32_t read_only;
    uint32_t logical_block_size; /* bytes; requests that are not aligned to it are refused with -EINVAL */
    uint64_t capacity;     /* bytes; requests beyond it are refused with -EINVAL */
    uint64_t fence_off;    /* of the fence line of this host's entry in the mapping; 0: there is none to look at */
    uint32_t host_epoch;   /* of this incarnation: once the fence line names it or a later one, nothing is performed any more */
    uint32_t engine;       /* enum cbd_engine */
    struct cbd_idle_conf idle;
};

CXL_API int cbd_backend_new(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, struct cbd_backend **out);
/* Starts a handler thread on a channel. -EEXIST when the channel has one. */
CXL_API int cbd_backend_add(struct cbd_backend *be, const struct cbd_channel_conf *channel);
/* The engine in use, never CBD_ENGINE_AUTO. */
CXL_API uint32_t cbd_backend_engine(const struct cbd_backend *be);
/* 1 once a handler found this host fenced. It neither performs nor answers what it took since. */
CXL_API int cbd_backend_fenced(const struct cbd_backend *be);
/* Stops the handler of the channel at channel_off after the requests in hand; -ENOENT when there is none. */
CXL_API int cbd_backend_remove(struct cbd_backend *be, uint64_t channel_off);
CXL_API void cbd_backend_stats(struct cbd_backend *be, struct cbd_stats *out);
/* Stops every handler and frees. */
CXL_API void cbd_backend_free(struct cbd_backend *be);

/* ---- queue: the blkdev's end of one channel. Not thread-safe: one thread per queue. ------------------------------- */

struct cbd_queue;

struct cbd_completion {
    uint64_t user; /* as given to submit */
    int32_t result; /* 0 or negated errno */
    uint32_t len;   /* bytes of the request */
};

CXL_API int cbd_queue_new(const struct cxl_mem *mem, const struct cbd_channel_conf *channel, struct cbd_queue **out);
/* One request of at most slot_bytes for READ/WRITE. buf: source of a write (copied before return) or target of a read (filled before
 * its completion is reported). Once the host is fenced it fails with -EIO and the queue is offline. -EAGAIN when all tags are in flight, -EINVAL on bad arguments. */
CXL_API int cbd_queue_submit(struct cbd_queue *q, uint32_t op, uint32_t flags, uint64_t offset, uint32_t len, void *buf,
                             uint64_t user);
/* Takes up to max completions without waiting; returns their number. */
CXL_API int cbd_queue_poll(struct cbd_queue *q, struct cbd_completion *out, uint32_t max);
/* The same, waiting at most timeout_us for the first one (spin, then sleep); 0 when the time is over. */
CXL_API int cbd_queue_wait(struct cbd_queue *q, struct cbd_completion *out, uint32_t max, uint64_t timeout_us);
/* Moves the queue to another channel, or to another epoch of its own. What was in flight is sent again there in the order of its
 * submission; its buffers must still be what they were. Ends an offline state. After an error nothing has changed: -EINVAL when depth,
 * slot size or features differ, or when the queue is on this epoch of this channel already; -ERANGE outside the mapping. */
CXL_API int cbd_queue_rebind(struct cbd_queue *q, const struct cbd_channel_conf *channel);
/* Ends everything in flight with this negated errno (the next polls report it, even after a rebind); later submissions fail with it
 * until a rebind. -EAGAIN, which says that a queue is full, and what is no errno become -EIO. */
CXL_API void cbd_queue_set_offline(struct cbd_queue *q, int32_t error);
CXL_API uint32_t cbd_queue_in_flight(const struct cbd_queue *q);
CXL_API void cbd_queue_stats(const struct cbd_queue *q, struct cbd_stats *out);
CXL_API void cbd_queue_free(struct cbd_queue *q);

/* ---- ublk front end ------------------------------------------------------------------------------------------------ */

struct cbd_ublk;

struct cbd_ublk_conf {
    int32_t dev_id; /* wanted /dev/ublkbN, -1: any */
    uint32_t queues;
    uint64_t capacity; /* bytes */
    uint32_t logical_block_size;
    uint32_t read_only;
    uint32_t discard;      /* 1: advertise discard */
    uint32_t write_zeroes; /* 1: advertise write-zeroes */
    uint32_t physical_block_size; /* bytes, a power of two, not below the logical one */
    uint32_t discard_granularity; /* bytes; used with discard */
    struct cbd_idle_conf idle;
};

/* Creates the device and starts one thread per queue on channels[0..queues); returns when /dev/ublkb<dev_id> exists. */
CXL_API int cbd_ublk_start(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, const struct cbd_ublk_conf *conf,
                           struct cbd_ublk **out);
CXL_API int cbd_ublk_dev_id(const struct cbd_ublk *u);
/* cbd_queue_rebind() of every queue, on the thread of the queue; channels as many as at the start; queues may
 * change places. Returns when it is done. After -EINVAL and -ERANGE nothing has changed; -ENODEV when the device is gone. Like the
 * rest, except for the counters, not while another call on the device is under way. */
CXL_API int cbd_ublk_rebind(struct cbd_ublk *u, const struct cbd_channel_conf *channels);
/* cbd_queue_set_offline() of every queue. Returns when it is done; -ENODEV when the device is gone. */
CXL_API int cbd_ublk_set_offline(struct cbd_ublk *u, int32_t error);
/* Those of one queue; zeros for one that it does not have. */
CXL_API void cbd_ublk_stats(struct cbd_ublk *u, uint32_t queue, struct cbd_stats *out);
/* Stops the device first, then the queue threads, then deletes it. -EBUSY while somebody has it open (nothing is stopped then, but
 * queues whose backend was silent for too long meanwhile are offline with -EIO). */
CXL_API int cbd_ublk_stop(struct cbd_ublk *u);

/* ---- claims of heads on blocks of a multi-headed device (docs/mhsld-format.md) ---------------------------------------- */

/* The two arrays of words in a mapped state file: bit h of a word says that head h has the block. The caller has checked that both
 * arrays lie in the mapping. Here heads are processes of one machine, so that compare-and-swap is atomic between them. */
struct mhsld_map {
    uint8_t *base;
    uint64_t len;
    uint64_t exclusive_off;
    uint64_t shared_off;
    uint64_t blocks;
    uint32_t word_bytes; /* 1, 2, 4 or 8: up to 8, 16, 32 or 64 heads */
    uint32_t reserved;
};

struct mhsld_conflict {
    uint64_t block;
    uint64_t holders; /* bit h: head h, which may be the claimer itself */
};

/* Claims count blocks for a head, all or none. Shared claims stand beside those of other heads that are shared, too. -EBUSY with the
 * first block that somebody has; -EAGAIN with the block where a claim of the other kind was under way (neither may have won: try
 * again); -EINVAL for a head or words that cannot be; -ERANGE outside the blocks. */
CXL_API int mhsld_claim(const struct mhsld_map *map, uint32_t head, uint64_t first, uint64_t count, uint32_t shared,
                        struct mhsld_conflict *conflict);
/* Takes the bits of a head away, of both kinds; *released counts the blocks that it had. */
CXL_API int mhsld_release(const struct mhsld_map *map, uint32_t head, uint64_t first, uint64_t count, uint64_t *released);
/* Copies the words of count blocks, widened. Each is read once; together they are no snapshot. */
CXL_API int mhsld_read(const struct mhsld_map *map, uint64_t first, uint64_t count, uint64_t *exclusive, uint64_t *shared);

#ifdef __cplusplus
}
#endif
#endif
