/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The offsets are asserted at compile time; this compares bytes of filled structures with bytes that are spelled out.
 */
#include <string.h>

#include "cbd_format.h"
#include "check.h"

static void test_slot(void)
{
    static const uint8_t want[64] = {
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, /* seq */
        0x14, 0x13, 0x12, 0x11, 0x02, 0x03, 0x16, 0x15, /* epoch, op, flags, tag */
        0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21, /* tid */
        0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31, /* offset */
        0x44, 0x43, 0x42, 0x41, 0x48, 0x47, 0x46, 0x45, /* len, data_off */
        0x54, 0x53, 0x52, 0x51, 0xfb, 0xff, 0xff, 0xff, /* data_len, result */
        0x64, 0x63, 0x62, 0x61, 0x68, 0x67, 0x66, 0x65, /* data_crc, credit */
        0x00, 0x00, 0x00, 0x00, 0x74, 0x73, 0x72, 0x71, /* reserved, slot_crc */
    };
    struct cbd_slot slot = {
        .seq = 0x0102030405060708,
        .epoch = 0x11121314,
        .op = 2,
        .flags = CBD_SLOT_FUA | CBD_SLOT_DATA_CRC,
        .tag = 0x1516,
        .tid = 0x2122232425262728,
        .offset = 0x3132333435363738,
        .len = 0x41424344,
        .data_off = 0x45464748,
        .data_len = 0x51525354,
        .result = -5,
        .data_crc = 0x61626364,
        .credit = 0x65666768,
        .slot_crc = 0x71727374,
    };

    TEST("slot");
    CHECK_EQ(memcmp(&slot, want, sizeof(want)), 0);
}

static void test_magics(void)
{
    static const struct {
        uint32_t magic;
        const char *text;
    } kinds[] = {{CBD_MAGIC_INFO, "CXTI"},
                 {CBD_MAGIC_HOST, "CXHO"},
                 {CBD_MAGIC_BACKEND, "CXBA"},
                 {CBD_MAGIC_BLKDEV, "CXBL"},
                 {CBD_MAGIC_CHANNEL, "CXCH"}};

    TEST("magics are their four letters in memory");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        CHECK_EQ(memcmp(&kinds[i].magic, kinds[i].text, 4), 0);
}

int main(void)
{
    test_slot();
    test_magics();
    return 0;
}
