/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * libcblk: blocks of a LUN of cxl-datapathd without a system call per request (docs/cxlflash.md).
 *
 * Blocks have 4096 bytes. Unless a line says otherwise a function returns 0, or -1 with errno. Chunks may be used by many threads, but a
 * chunk must not be closed while another thread uses it. After a fork the child's chunks are unusable (EPERM) until
 * cblk_clone_after_fork(). When the data path or the daemon is started again, requests wait for it and are sent again by themselves, for
 * at most CBLK_PATIENCE_S seconds of the environment (30) while there is no daemon; then the chunk answers EIO and can only be closed.
 */
#ifndef CBLK_H
#define CBLK_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CBLK_API __attribute__((visibility("default")))
#define CBLK_BLOCK_SIZE 4096

typedef int chunk_id_t;
#define NULL_CHUNK_ID (-1)

enum cblk_open_flag { CBLK_OPN_VIRT_LUN = 1 };
enum cblk_size_flag { CBLK_SCRUB_DATA_FLG = 1 }; /* close, set_size: zero at once what is given back */
enum cblk_arw_flag {
    CBLK_ARW_WAIT_CMD_FLAG = 1, /* wait for a free command instead of failing with EAGAIN */
    CBLK_ARW_USER_TAG_FLAG = 2, /* *tag is the caller's choice */
};
enum cblk_aresult_flag {
    CBLK_ARESULT_BLOCKING = 1,
    CBLK_ARESULT_NEXT_TAG = 2, /* whichever request ended first; *tag tells which */
    CBLK_ARESULT_USER_TAG = 4, /* among the requests with CBLK_ARW_USER_TAG_FLAG; without it, among the others */
};

enum cblk_status {
    CBLK_ARW_STATUS_PENDING = 0,
    CBLK_ARW_STATUS_SUCCESS = 1,
    CBLK_ARW_STATUS_INVALID = 2, /* it was never sent */
    CBLK_ARW_STATUS_FAIL = 3,
};

typedef struct cblk_arw_status {
    enum cblk_status status;
    int fail_errno;
    uint64_t blocks_transferred;
} cblk_arw_status_t;

enum cblk_io_type { CBLK_IO_TYPE_READ = 1, CBLK_IO_TYPE_WRITE = 2, CBLK_IO_TYPE_UNMAP = 3, CBLK_IO_TYPE_SYNC = 4 };

typedef struct cblk_io {
    enum cblk_io_type request_type;
    int tag; /* set when it was issued */
    void *buf;
    uint64_t lba;
    uint64_t nblocks;
    cblk_arw_status_t stat;
} cblk_io_t;

struct cblk_stats {
    uint64_t reads, writes, unmaps, syncs; /* commands that were sent */
    uint64_t blocks_read, blocks_written;
    uint64_t errors;     /* commands that failed */
    uint64_t recoveries; /* how often the data path was started again under the chunk */
    uint64_t sleeps;     /* how often a thread waited in the kernel */
    uint64_t in_flight, most_in_flight;
};

enum cblk_attr_flag { CBLK_ATTR_VIRTUAL = 1, CBLK_ATTR_READ_ONLY = 2 };

struct cblk_attrs {
    uint64_t context;
    uint32_t handle;
    uint32_t flags; /* enum cblk_attr_flag bits */
    uint32_t block_size;
    uint32_t max_transfer; /* blocks of one asynchronous read or write */
    uint32_t max_requests; /* in flight */
    uint32_t chunk_blocks; /* steps in which a virtual LUN takes space; 0: a direct one */
};

/* lun: a WWID or name, or the path of a service socket and one of these: /run/other/lun.sock/flash0.
 * max_requests: in flight, 0 for 64; rounded up to a power of two. mode: O_RDONLY or O_RDWR. Without CBLK_OPN_VIRT_LUN the chunk is
 * the whole LUN and lasts; with it an empty virtual LUN that ends with the chunk. */
CBLK_API chunk_id_t cblk_open(const char *lun, int max_requests, int mode, int flags);
CBLK_API int cblk_close(chunk_id_t id, int flags);
/* Blocks of the whole LUN, as the master knows it now. */
CBLK_API int cblk_get_lun_size(chunk_id_t id, uint64_t *nblocks, int flags);
/* Blocks of the chunk. */
CBLK_API int cblk_get_size(chunk_id_t id, uint64_t *nblocks, int flags);
/* Of virtual LUNs only. What is new reads as zeroes. */
CBLK_API int cblk_set_size(chunk_id_t id, uint64_t nblocks, int flags);

/* Return the blocks, or -1. Of any length; those above the longest transfer are split. */
CBLK_API int64_t cblk_read(chunk_id_t id, void *buf, uint64_t lba, uint64_t nblocks, int flags);
CBLK_API int64_t cblk_write(chunk_id_t id, const void *buf, uint64_t lba, uint64_t nblocks, int flags);
CBLK_API int64_t cblk_unmap(chunk_id_t id, uint64_t lba, uint64_t nblocks, int flags);
/* What was written before is stable afterwards. */
CBLK_API int cblk_sync(chunk_id_t id, int flags);

/* Begin a request. A write has left buf on return; what is read is in buf once cblk_aresult() says so. status may be NULL; it is kept
 * up to date whenever the chunk is used. Each tag has to be fetched by cblk_aresult(). EAGAIN: all commands are taken. */
CBLK_API int cblk_aread(chunk_id_t id, void *buf, uint64_t lba, uint64_t nblocks, int *tag, cblk_arw_status_t *status, int flags);
CBLK_API int cblk_awrite(chunk_id_t id, const void *buf, uint64_t lba, uint64_t nblocks, int *tag, cblk_arw_status_t *status,
                         int flags);
/* Blocks of a request that ended well, 0 while it has not ended, -1 with its errno; status: its enum cblk_status. ENOENT: no such tag
 * is open. */
CBLK_API int64_t cblk_aresult(chunk_id_t id, int *tag, uint64_t *status, int flags);
/* Issues requests, looks after those in pending and waits for those in wait, at most timeout_us (0: for ever; then ETIMEDOUT). Those
 * of issue, pending and wait that ended are put into completion, at most *completed of them, which becomes their number. What could not
 * be sent has the status INVALID and is in no list. */
CBLK_API int cblk_listio(chunk_id_t id, cblk_io_t *issue[], int issues, cblk_io_t *pending[], int pendings, cblk_io_t *wait[],
                         int waits, cblk_io_t *completion[], int *completed, uint64_t timeout_us, int flags);

/* In a child: gives the chunk a context of its own, with what the parent's reaches now. Requests of the parent stay the parent's. */
CBLK_API int cblk_clone_after_fork(chunk_id_t id, int mode, int flags);
CBLK_API int cblk_get_stats(chunk_id_t id, struct cblk_stats *stats, int flags);
CBLK_API int cblk_get_attrs(chunk_id_t id, struct cblk_attrs *attrs, int flags);
/* A descriptor for poll(), readable once a request has ended; EALREADY: one has. Ask for it anew before each poll(), and leave its
 * bytes alone. */
CBLK_API int cblk_get_fd(chunk_id_t id);
/* Why the last service of the calling thread was refused, for people; "" for none. */
CBLK_API const char *cblk_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
