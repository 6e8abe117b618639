/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the ublk driver of Linux 6.12 and a ublk server say to each other; the header of Debian 12's kernel package is older than
 * the encoded commands. Only what is used here.
 */
#ifndef CXL_UBLK_ABI_H
#define CXL_UBLK_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define UBLK_CONTROL_PATH "/dev/ublk-control"

struct ublk_ctrl_cmd { /* in the 80 command bytes of a 128-byte SQE on the control device */
    uint32_t dev_id;
    uint16_t queue_id; /* UBLK_NO_QUEUE unless the command is about one */
    uint16_t len;      /* of the buffer at addr */
    uint64_t addr;
    uint64_t data;
    uint16_t dev_path_len;
    uint16_t pad;
    uint32_t reserved;
};
_Static_assert(sizeof(struct ublk_ctrl_cmd) == 32, "ublk_ctrl_cmd");

#define UBLK_NO_QUEUE 0xffffU
#define UBLK_ANY_DEV 0xffffffffU

#define UBLK_GET_QUEUE_AFFINITY _IOR('u', 0x01, struct ublk_ctrl_cmd) /* data: queue; addr: a cpu_set_t */
#define UBLK_GET_DEV_INFO _IOR('u', 0x02, struct ublk_ctrl_cmd)
#define UBLK_ADD_DEV _IOWR('u', 0x04, struct ublk_ctrl_cmd)
#define UBLK_DEL_DEV _IOWR('u', 0x05, struct ublk_ctrl_cmd)
#define UBLK_START_DEV _IOWR('u', 0x06, struct ublk_ctrl_cmd) /* data: pid */
#define UBLK_STOP_DEV _IOWR('u', 0x07, struct ublk_ctrl_cmd)
#define UBLK_SET_PARAMS _IOWR('u', 0x08, struct ublk_ctrl_cmd)
#define UBLK_GET_PARAMS _IOR('u', 0x09, struct ublk_ctrl_cmd)
#define UBLK_START_USER_RECOVERY _IOWR('u', 0x10, struct ublk_ctrl_cmd)
#define UBLK_END_USER_RECOVERY _IOWR('u', 0x11, struct ublk_ctrl_cmd) /* data: pid */
#define UBLK_GET_FEATURES _IOR('u', 0x13, struct ublk_ctrl_cmd)       /* addr: a uint64_t of UBLK_F_* */

#define UBLK_F_USER_RECOVERY (1ULL << 3)
#define UBLK_F_USER_RECOVERY_REISSUE (1ULL << 4)
#define UBLK_F_CMD_IOCTL_ENCODE (1ULL << 6)

enum ublk_state { UBLK_S_DEAD = 0, UBLK_S_LIVE = 1, UBLK_S_QUIESCED = 2 };

struct ublk_dev_info {
    uint16_t nr_hw_queues; /* the driver lowers it to the number of CPUs */
    uint16_t queue_depth;
    uint16_t state;
    uint16_t pad0;
    uint32_t max_io_buf_bytes;
    uint32_t dev_id;
    int32_t ublksrv_pid;
    uint32_t pad1;
    uint64_t flags;
    uint64_t ublksrv_flags;
    uint32_t owner_uid;
    uint32_t owner_gid;
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct ublk_dev_info) == 64, "ublk_dev_info");

#define UBLK_ATTR_READ_ONLY (1U << 0)
#define UBLK_ATTR_VOLATILE_CACHE (1U << 2)
#define UBLK_ATTR_FUA (1U << 3)

#define UBLK_PARAM_BASIC (1U << 0)
#define UBLK_PARAM_DISCARD (1U << 1)

struct ublk_params { /* the driver's is longer; len says how much of it is meant */
    uint32_t len;
    uint32_t types;
    uint32_t attrs;
    uint8_t logical_bs_shift;
    uint8_t physical_bs_shift;
    uint8_t io_opt_shift;
    uint8_t io_min_shift;
    uint32_t max_sectors;
    uint32_t chunk_sectors;
    uint64_t dev_sectors;
    uint64_t virt_boundary_mask;
    uint32_t discard_alignment;
    uint32_t discard_granularity; /* bytes */
    uint32_t max_discard_sectors;
    uint32_t max_write_zeroes_sectors;
    uint16_t max_discard_segments;
    uint16_t discard_reserved;
};
_Static_assert(offsetof(struct ublk_params, discard_alignment) == 40, "ublk_params");
_Static_assert(sizeof(struct ublk_params) == 64, "ublk_params");

/* ---- one queue, on /dev/ublkcN ---- */

struct ublk_io_cmd { /* in the 16 command bytes of an SQE */
    uint16_t q_id;
    uint16_t tag;
    int32_t result; /* commit: bytes of a read or write, 0 of other operations, or a negated errno */
    uint64_t addr;  /* our buffer of this tag */
};
_Static_assert(sizeof(struct ublk_io_cmd) == 16, "ublk_io_cmd");

#define UBLK_IO_FETCH _IOWR('u', 0x20, struct ublk_io_cmd)
#define UBLK_IO_COMMIT_AND_FETCH _IOWR('u', 0x21, struct ublk_io_cmd)

#define UBLK_IO_OK 0 /* any other result of a fetch: the tag is gone, -ENODEV when the device was stopped */

enum ublk_op { UBLK_OP_READ = 0, UBLK_OP_WRITE = 1, UBLK_OP_FLUSH = 2, UBLK_OP_DISCARD = 3, UBLK_OP_WRITE_ZEROES = 5 };
#define UBLK_OP_MASK 0xffU
#define UBLK_IO_F_FUA (1U << 13)

struct ublk_io_desc { /* one per tag, in the read-only mapping of the queue */
    uint32_t op_flags;
    uint32_t nr_sectors;
    uint64_t start_sector;
    uint64_t addr;
};
_Static_assert(sizeof(struct ublk_io_desc) == 24, "ublk_io_desc");

/* The descriptors of queue q lie at q times the space of the deepest queue that there can be. */
#define UBLK_MAX_QUEUE_DEPTH 4096U
#define UBLK_QUEUE_STRIDE (UBLK_MAX_QUEUE_DEPTH * sizeof(struct ublk_io_desc))

#define UBLK_SECTOR_SHIFT 9

#endif
