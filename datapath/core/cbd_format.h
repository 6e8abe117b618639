/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bytes of a CBD transport, as docs/cbd-format.md defines them. The assertions below are the contract: a change that moves
 * a field is a change of the format.
 */
#ifndef CBD_FORMAT_H
#define CBD_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a transport is little-endian, and its structures are used in place"
#endif

#define CBD_LINE 64U
#define CBD_PAGE 4096U

#define CBD_MAGIC(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
#define CBD_MAGIC_INFO CBD_MAGIC('C', 'X', 'T', 'I')
#define CBD_MAGIC_HOST CBD_MAGIC('C', 'X', 'H', 'O')
#define CBD_MAGIC_BACKEND CBD_MAGIC('C', 'X', 'B', 'A')
#define CBD_MAGIC_BLKDEV CBD_MAGIC('C', 'X', 'B', 'L')
#define CBD_MAGIC_CHANNEL CBD_MAGIC('C', 'X', 'C', 'H')

#define CBD_VERSION 2U
#define CBD_ENDIAN 0x0102030405060708ULL
#define CBD_INFO_COPY_BYTES 4096U
#define CBD_ENTRY_COPY_BYTES 1024U
#define CBD_HOSTS_OFF 8192U
#define CBD_NO_CHANNEL 0xffffffffU
#define CBD_MAX_QUEUES 16U
#define CBD_MIN_DEPTH 2U
#define CBD_MAX_DEPTH 1024U
#define CBD_MIN_SLOT_BYTES 4096U
#define CBD_MAX_SLOT_BYTES (1U << 20)

#define CBD_CHANNEL_BLKDEV_CTRL 0U
#define CBD_CHANNEL_BLKDEV_STATS 64U
#define CBD_CHANNEL_BACKEND_CTRL 2048U
#define CBD_CHANNEL_BACKEND_STATS 2112U
#define CBD_CHANNEL_RINGS 4096U

#define CBD_AT(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define CBD_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), "size of " #type)

/* ---- metadata ----------------------------------------------------------------------------------------------------- */

struct cbd_copy_header {
    uint32_t magic;
    uint32_t crc; /* of the whole copy, this field as zero */
    uint64_t seq;
    uint32_t payload_len;
    uint32_t version;
    uint64_t reserved;
};
CBD_SIZE(cbd_copy_header, 32);
CBD_AT(cbd_copy_header, magic, 0);
CBD_AT(cbd_copy_header, crc, 4);
CBD_AT(cbd_copy_header, seq, 8);
CBD_AT(cbd_copy_header, payload_len, 16);
CBD_AT(cbd_copy_header, version, 20);
CBD_AT(cbd_copy_header, reserved, 24);

struct cbd_info {
    uint64_t endian;
    uint8_t uuid[16];
    char name[64];
    uint64_t features;
    uint32_t coherence;
    uint32_t host_count;
    uint32_t backend_count;
    uint32_t blkdev_count;
    uint32_t channel_count;
    uint32_t ring_depth;
    uint32_t slot_bytes;
    uint32_t lease_ms;
    uint64_t total_size;
    uint64_t hosts_off;
    uint64_t backends_off;
    uint64_t blkdevs_off;
    uint64_t channels_off;
    uint64_t channel_size;
};
CBD_SIZE(cbd_info, 176);
CBD_AT(cbd_info, endian, 0);
CBD_AT(cbd_info, uuid, 8);
CBD_AT(cbd_info, name, 24);
CBD_AT(cbd_info, features, 88);
CBD_AT(cbd_info, coherence, 96);
CBD_AT(cbd_info, host_count, 100);
CBD_AT(cbd_info, backend_count, 104);
CBD_AT(cbd_info, blkdev_count, 108);
CBD_AT(cbd_info, channel_count, 112);
CBD_AT(cbd_info, ring_depth, 116);
CBD_AT(cbd_info, slot_bytes, 120);
CBD_AT(cbd_info, lease_ms, 124);
CBD_AT(cbd_info, total_size, 128);
CBD_AT(cbd_info, hosts_off, 136);
CBD_AT(cbd_info, backends_off, 144);
CBD_AT(cbd_info, blkdevs_off, 152);
CBD_AT(cbd_info, channels_off, 160);
CBD_AT(cbd_info, channel_size, 168);

struct cbd_heartbeat_line {
    uint64_t counter;
    uint32_t epoch;
    uint32_t crc; /* of the first 12 bytes */
    uint8_t reserved[48];
};
CBD_SIZE(cbd_heartbeat_line, CBD_LINE);
CBD_AT(cbd_heartbeat_line, counter, 0);
CBD_AT(cbd_heartbeat_line, epoch, 8);
CBD_AT(cbd_heartbeat_line, crc, 12);

struct cbd_bell_line {
    uint64_t generation;
    uint32_t zero;
    uint32_t crc; /* of the first 12 bytes */
    uint8_t reserved[48];
};
CBD_SIZE(cbd_bell_line, CBD_LINE);
CBD_AT(cbd_bell_line, generation, 0);
CBD_AT(cbd_bell_line, zero, 8);
CBD_AT(cbd_bell_line, crc, 12);

/* Every incarnation of the host up to `epoch` is dead for ever, whatever it still believes. Whoever writes it writes these bytes. */
struct cbd_fence_line {
    uint64_t epoch;
    uint32_t zero;
    uint32_t crc; /* of the first 12 bytes */
    uint8_t reserved[48];
};
CBD_SIZE(cbd_fence_line, CBD_LINE);
CBD_AT(cbd_fence_line, epoch, 0);
CBD_AT(cbd_fence_line, zero, 8);
CBD_AT(cbd_fence_line, crc, 12);

/* A ticket of Lamport's bakery; 0: the host wants nothing. */
struct cbd_claim_line {
    uint64_t number;
    uint32_t choosing;
    uint32_t crc; /* of the first 12 bytes */
    uint8_t reserved[48];
};
CBD_SIZE(cbd_claim_line, CBD_LINE);
CBD_AT(cbd_claim_line, number, 0);
CBD_AT(cbd_claim_line, choosing, 8);
CBD_AT(cbd_claim_line, crc, 12);

struct cbd_intent_line {
    uint64_t nonce;
    uint32_t zero;
    uint32_t crc; /* of the first 12 bytes */
    uint8_t reserved[48];
};
CBD_SIZE(cbd_intent_line, CBD_LINE);
CBD_AT(cbd_intent_line, nonce, 0);
CBD_AT(cbd_intent_line, zero, 8);
CBD_AT(cbd_intent_line, crc, 12);

struct cbd_entry_page {
    uint8_t copy[2][CBD_ENTRY_COPY_BYTES];
    struct cbd_heartbeat_line heartbeat;
    struct cbd_bell_line bell;
    struct cbd_fence_line fence;
    uint8_t unused[832];
    struct cbd_claim_line claim;
    struct cbd_intent_line intent;
    uint8_t rest[896];
};
CBD_SIZE(cbd_entry_page, CBD_PAGE);
CBD_AT(cbd_entry_page, copy[0], 0);
CBD_AT(cbd_entry_page, copy[1], 1024);
CBD_AT(cbd_entry_page, heartbeat, 2048);
CBD_AT(cbd_entry_page, bell, 2112);
CBD_AT(cbd_entry_page, fence, 2176);
CBD_AT(cbd_entry_page, claim, 3072);
CBD_AT(cbd_entry_page, intent, 3136);

struct cbd_host {
    uint32_t state;
    uint32_t id;
    uint32_t epoch;
    uint32_t flags;
    char name[64];
    uint8_t boot_id[16];
};
CBD_SIZE(cbd_host, 96);
CBD_AT(cbd_host, state, 0);
CBD_AT(cbd_host, id, 4);
CBD_AT(cbd_host, epoch, 8);
CBD_AT(cbd_host, flags, 12);
CBD_AT(cbd_host, name, 16);
CBD_AT(cbd_host, boot_id, 80);

struct cbd_backend_entry {
    uint32_t state;
    uint32_t id;
    uint32_t host_id;
    uint32_t epoch;
    uint32_t flags;
    uint32_t logical_block_size;
    uint64_t capacity;
    char path[256];
    uint32_t physical_block_size;
    uint32_t discard_granularity;
    uint32_t host_epoch;
    uint32_t life;
};
CBD_SIZE(cbd_backend_entry, 304);
CBD_AT(cbd_backend_entry, state, 0);
CBD_AT(cbd_backend_entry, id, 4);
CBD_AT(cbd_backend_entry, host_id, 8);
CBD_AT(cbd_backend_entry, epoch, 12);
CBD_AT(cbd_backend_entry, flags, 16);
CBD_AT(cbd_backend_entry, logical_block_size, 20);
CBD_AT(cbd_backend_entry, capacity, 24);
CBD_AT(cbd_backend_entry, path, 32);
CBD_AT(cbd_backend_entry, physical_block_size, 288);
CBD_AT(cbd_backend_entry, discard_granularity, 292);
CBD_AT(cbd_backend_entry, host_epoch, 296);
CBD_AT(cbd_backend_entry, life, 300);

struct cbd_blkdev_entry {
    uint32_t state;
    uint32_t id;
    uint32_t host_id;
    uint32_t backend_id;
    uint32_t backend_epoch;
    uint32_t epoch;
    uint32_t flags;
    uint32_t queues;
    uint32_t channels[CBD_MAX_QUEUES];
    uint32_t channel_epochs[CBD_MAX_QUEUES];
    uint32_t host_epoch;
    uint32_t reserved;
};
CBD_SIZE(cbd_blkdev_entry, 168);
CBD_AT(cbd_blkdev_entry, state, 0);
CBD_AT(cbd_blkdev_entry, id, 4);
CBD_AT(cbd_blkdev_entry, host_id, 8);
CBD_AT(cbd_blkdev_entry, backend_id, 12);
CBD_AT(cbd_blkdev_entry, backend_epoch, 16);
CBD_AT(cbd_blkdev_entry, epoch, 20);
CBD_AT(cbd_blkdev_entry, flags, 24);
CBD_AT(cbd_blkdev_entry, queues, 28);
CBD_AT(cbd_blkdev_entry, channels, 32);
CBD_AT(cbd_blkdev_entry, channel_epochs, 96);
CBD_AT(cbd_blkdev_entry, host_epoch, 160);
CBD_AT(cbd_blkdev_entry, reserved, 164);

/* ---- channel ------------------------------------------------------------------------------------------------------- */

struct cbd_control_line {
    uint32_t magic;
    uint32_t state;
    uint32_t epoch;
    uint32_t blkdev_id;
    uint32_t backend_id;
    uint32_t queue;
    uint32_t host_id;
    uint32_t host_epoch;
    uint8_t zero[28];
    uint32_t crc; /* of the first 60 bytes */
};
CBD_SIZE(cbd_control_line, CBD_LINE);
CBD_AT(cbd_control_line, magic, 0);
CBD_AT(cbd_control_line, state, 4);
CBD_AT(cbd_control_line, epoch, 8);
CBD_AT(cbd_control_line, blkdev_id, 12);
CBD_AT(cbd_control_line, backend_id, 16);
CBD_AT(cbd_control_line, queue, 20);
CBD_AT(cbd_control_line, host_id, 24);
CBD_AT(cbd_control_line, host_epoch, 28);
CBD_AT(cbd_control_line, zero, 32);
CBD_AT(cbd_control_line, crc, 60);

enum cbd_slot_flag { CBD_SLOT_FUA = 1, CBD_SLOT_DATA_CRC = 2 };

struct cbd_slot {
    uint64_t seq;
    uint32_t epoch;
    uint8_t op;
    uint8_t flags;
    uint16_t tag;
    uint64_t tid;
    uint64_t offset;
    uint32_t len;
    uint32_t data_off;
    uint32_t data_len;
    int32_t result;
    uint32_t data_crc;
    uint32_t credit;
    uint32_t reserved;
    uint32_t slot_crc; /* of the first 60 bytes */
};
CBD_SIZE(cbd_slot, CBD_LINE);
CBD_AT(cbd_slot, seq, 0);
CBD_AT(cbd_slot, epoch, 8);
CBD_AT(cbd_slot, op, 12);
CBD_AT(cbd_slot, flags, 13);
CBD_AT(cbd_slot, tag, 14);
CBD_AT(cbd_slot, tid, 16);
CBD_AT(cbd_slot, offset, 24);
CBD_AT(cbd_slot, len, 32);
CBD_AT(cbd_slot, data_off, 36);
CBD_AT(cbd_slot, data_len, 40);
CBD_AT(cbd_slot, result, 44);
CBD_AT(cbd_slot, data_crc, 48);
CBD_AT(cbd_slot, credit, 52);
CBD_AT(cbd_slot, reserved, 56);
CBD_AT(cbd_slot, slot_crc, 60);

#endif
