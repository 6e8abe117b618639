/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bytes of a kmem_blk pool, as docs/kmem-blk-format.md defines them. The assertions below are the contract.
 */
#ifndef KMEM_BLK_FORMAT_H
#define KMEM_BLK_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "a pool is little-endian, and its index is used in place"
#endif

#define KMB_MAGIC_POOL 0x42454d4bU /* "KMEB" */
#define KMB_MAGIC_RANGE 0x52454d4bU /* "KMER" */
#define KMB_TYPE_BLK 1U
#define KMB_VERSION 1U
#define KMB_TABLE_OFF 1024U
#define KMB_TABLE_VOLATILE (UINT64_C(1) << 63)
#define KMB_TABLE_ENTRIES 63U /* beside the memory that carries the superblock */

#define KMB_AT(type, field, offset) _Static_assert(offsetof(struct type, field) == (offset), #type "." #field)
#define KMB_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), "size of " #type)

struct kmb_superblock {
    uint32_t magic;
    uint32_t type;
    uint32_t version;
    uint32_t crc; /* CRC32C of these 128 bytes, this field as zero */
    uint64_t num_pages;
    uint64_t num_index_pages;
    uint64_t num_index_entries;
    uint64_t spare_pages;
    uint8_t uuid[16];
    char name[64];
};
KMB_SIZE(kmb_superblock, 128);
KMB_AT(kmb_superblock, magic, 0);
KMB_AT(kmb_superblock, type, 4);
KMB_AT(kmb_superblock, version, 8);
KMB_AT(kmb_superblock, crc, 12);
KMB_AT(kmb_superblock, num_pages, 16);
KMB_AT(kmb_superblock, num_index_pages, 24);
KMB_AT(kmb_superblock, num_index_entries, 32);
KMB_AT(kmb_superblock, spare_pages, 40);
KMB_AT(kmb_superblock, uuid, 48);
KMB_AT(kmb_superblock, name, 64);

/* Of the table in page 0. An entry counts from the store of `pages`, the last one of an addition and the first of a removal. */
struct kmb_table_entry {
    uint64_t pages; /* 0: free entry; with KMB_TABLE_VOLATILE: carries no blocks, and the pool opens without it */
    uint64_t first;
    uint8_t uuid[16];
};
KMB_SIZE(kmb_table_entry, 32);
KMB_AT(kmb_table_entry, pages, 0);
KMB_AT(kmb_table_entry, first, 8);
KMB_AT(kmb_table_entry, uuid, 16);
_Static_assert(KMB_TABLE_OFF + KMB_TABLE_ENTRIES * sizeof(struct kmb_table_entry) <= 4096, "the table fits into page 0");

/* In page 0 of every further memory. */
struct kmb_range_header {
    uint32_t magic;
    uint32_t version;
    uint32_t crc; /* CRC32C of these 64 bytes, this field as zero */
    uint32_t zero;
    uint64_t first;
    uint64_t pages;
    uint8_t pool[16]; /* its uuid */
    uint8_t uuid[16]; /* of the range */
};
KMB_SIZE(kmb_range_header, 64);
KMB_AT(kmb_range_header, magic, 0);
KMB_AT(kmb_range_header, version, 4);
KMB_AT(kmb_range_header, crc, 8);
KMB_AT(kmb_range_header, zero, 12);
KMB_AT(kmb_range_header, first, 16);
KMB_AT(kmb_range_header, pages, 24);
KMB_AT(kmb_range_header, pool, 32);
KMB_AT(kmb_range_header, uuid, 48);

#endif
