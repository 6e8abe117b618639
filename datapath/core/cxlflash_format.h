/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a process and the master of a LUN share: two areas per context, and the packets of the service socket. docs/cxlflash-format.md
 * explains it; the Python mirror is cxl_datapath/cxlflash/wire.py, and a test compares the two.
 */
#ifndef CXLFLASH_FORMAT_H
#define CXLFLASH_FORMAT_H

#include <assert.h>
#include <stdint.h>

#define CXLFLASH_VERSION 1U
#define CXLFLASH_BLOCK 4096U          /* bytes; every size and address is in blocks */
#define CXLFLASH_LINE 64U             /* bytes */
#define CXLFLASH_CONTEXTS_MAX 512U    /* of one daemon */
#define CXLFLASH_HANDLES_MAX 16U      /* of one context */
#define CXLFLASH_DEPTH_MIN 2U
#define CXLFLASH_DEPTH_MAX 256U       /* commands in flight; a power of two */
#define CXLFLASH_TRANSFER_BLOCKS 32U  /* of one read or write */
#define CXLFLASH_UNMAP_BLOCKS 65536U  /* of one unmap */
#define CXLFLASH_RINGS 4096U          /* offset of the ring in both areas */
#define CXLFLASH_ERROR UINT64_MAX     /* the status word of a context that has to be recovered */
#define CXLFLASH_NO_LBA UINT64_MAX    /* the last LBA of what has no block */

/* ---- areas ------------------------------------------------------------------------------------------------------ */

enum cxlflash_op { CXLFLASH_READ = 1, CXLFLASH_WRITE = 2, CXLFLASH_UNMAP = 3, CXLFLASH_SYNC = 4 };

/* A slot of the command ring in the user area. */
struct cxlflash_command {
    uint64_t seq; /* written last */
    uint16_t tag; /* below the depth, and none that is in flight; names the data slot, too */
    uint8_t op;
    uint8_t flags; /* 0 */
    uint32_t handle;
    uint64_t lba;
    uint32_t blocks;
    uint32_t zero;
    uint64_t reserved[4]; /* 0 */
};

/* A slot of the response ring in the master area. */
struct cxlflash_response {
    uint64_t seq; /* written last */
    uint16_t tag;
    uint16_t zero;
    int32_t result; /* 0 or a negated errno */
    uint64_t reserved[6];
};

/* The first line of the user area. */
struct cxlflash_user_line {
    uint32_t sleeping; /* 1: the application waits for a byte on its bell */
    uint32_t zero[15];
};

/* The first two lines of the master area: the daemon writes one of them, the engine the other. */
struct cxlflash_status_line {
    uint64_t status; /* 0, or CXLFLASH_ERROR */
    uint64_t zero[7];
};
struct cxlflash_engine_line {
    uint32_t sleeping; /* 1: the engine waits for a byte on the bell */
    uint32_t zero[15];
};

static_assert(sizeof(struct cxlflash_command) == CXLFLASH_LINE, "a slot is one line");
static_assert(sizeof(struct cxlflash_response) == CXLFLASH_LINE, "a slot is one line");
static_assert(sizeof(struct cxlflash_user_line) == CXLFLASH_LINE, "one writer per line");
static_assert(sizeof(struct cxlflash_status_line) == CXLFLASH_LINE, "one writer per line");
static_assert(sizeof(struct cxlflash_engine_line) == CXLFLASH_LINE, "one writer per line");

/* Both areas have the same shape: a page of lines, the ring, and a data slot per tag (of writes in the user area, of reads in the
 * master area). */
static inline uint64_t cxlflash_data_off(uint32_t depth)
{
    uint64_t ring = (uint64_t)depth * CXLFLASH_LINE;

    return CXLFLASH_RINGS + (ring + CXLFLASH_BLOCK - 1) / CXLFLASH_BLOCK * CXLFLASH_BLOCK;
}

static inline uint64_t cxlflash_area_bytes(uint32_t depth)
{
    return cxlflash_data_off(depth) + (uint64_t)depth * CXLFLASH_TRANSFER_BLOCKS * CXLFLASH_BLOCK;
}

static inline uint64_t cxlflash_slot_off(uint32_t depth, uint64_t seq)
{
    return CXLFLASH_RINGS + ((seq - 1) & (depth - 1)) * CXLFLASH_LINE;
}

/* ---- service socket ---------------------------------------------------------------------------------------------- */

enum cxlflash_service {
    CXLFLASH_ATTACH = 1,
    CXLFLASH_USER_DIRECT = 2,
    CXLFLASH_USER_VIRTUAL = 3,
    CXLFLASH_VLUN_RESIZE = 4,
    CXLFLASH_RELEASE = 5,
    CXLFLASH_DETACH = 6,
    CXLFLASH_VLUN_CLONE = 7,
    CXLFLASH_VERIFY = 8,
    CXLFLASH_RECOVER_AFU = 9,
    CXLFLASH_MANAGE_LUN = 10,
};

enum cxlflash_flag {
    CXLFLASH_ATTACH_REUSE = 1,     /* ATTACH: the context is there, tell about it again */
    CXLFLASH_ATTACH_READ_ONLY = 2, /* ATTACH: commands that change the medium are refused */
    CXLFLASH_SCRUB = 1,            /* VLUN_RESIZE, RELEASE, DETACH: zero what is given back at once */
    CXLFLASH_HINT_SENSE = 1,       /* VERIFY: sense says what the application was told */
    CXLFLASH_ENABLE_SUPERPIPE = 1, /* MANAGE_LUN */
    CXLFLASH_DISABLE_SUPERPIPE = 2,
};

enum cxlflash_return_flag {
    CXLFLASH_APP_CLOSE_ADAP_FD = 1, /* the application has to close a descriptor */
    CXLFLASH_ALL_PORTS_ACTIVE = 2,  /* more than one path leads to the LUN */
    CXLFLASH_CONTEXT_RESET = 4,     /* RECOVER_AFU: the descriptors are new */
};

/* Fields that a service does not use are 0. */
struct cxlflash_request {
    uint16_t version;
    uint16_t service;
    uint32_t flags;
    uint64_t context;
    uint64_t source; /* VLUN_CLONE: the context of the parent */
    uint64_t size;   /* USER_VIRTUAL, VLUN_RESIZE: blocks */
    uint32_t handle; /* VLUN_RESIZE, RELEASE, VERIFY */
    uint32_t depth;  /* ATTACH: commands in flight */
    char lun[64];    /* ATTACH, MANAGE_LUN: WWID or name, NUL-padded */
    uint8_t sense[32];
};

/* With it, after an ATTACH without reuse and a RECOVER_AFU that reset the context: bell, user area, master area. */
struct cxlflash_answer {
    uint16_t version;
    uint16_t service;
    int32_t error; /* 0 or an errno; then text says why */
    uint32_t return_flags;
    uint32_t handle;
    uint64_t context;
    uint64_t last_lba;     /* of the handle; of the LUN after ATTACH and MANAGE_LUN */
    uint32_t block_size;   /* bytes */
    uint32_t max_transfer; /* blocks */
    uint32_t depth;
    uint32_t chunk_blocks; /* in which virtual LUNs get their space */
    char text[256];        /* for people, NUL-terminated */
};

static_assert(sizeof(struct cxlflash_request) == 136, "a packet");
static_assert(sizeof(struct cxlflash_answer) == 304, "a packet");

#endif
