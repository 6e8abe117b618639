/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <string.h>

#include "check.h"
#include "crc.h"

#define LONGEST 20000U

typedef uint32_t (*crc_fn)(uint32_t seed, const void *data, size_t len);

static void test_vectors(crc_fn crc)
{
    static const uint8_t iscsi_read[48] = {0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0,    0, 0, 0,    0, 0, 0,    0, 0x14, 0, 0, 0, 0, 0, 4, 0,
                                           0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 2,    0, 0, 0, 0, 0, 0, 0};
    uint8_t bytes[32];

    memset(bytes, 0, sizeof(bytes));
    CHECK_EQ(crc(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    CHECK_EQ(crc(0, bytes, 32), 0x62a8ab43);
    for (unsigned i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    CHECK_EQ(crc(0, bytes, 32), 0x46dd794e);
    for (unsigned i = 0; i < 32; i++)
        bytes[i] = (uint8_t)(31 - i);
    CHECK_EQ(crc(0, bytes, 32), 0x113fdb5c);
    CHECK_EQ(crc(0, iscsi_read, 48), 0xd9963a56);
    CHECK_EQ(crc(0, "123456789", 9), 0xe3069283);
    CHECK_EQ(crc(0, "", 0), 0);
}

static void test_agreement(const crc_fn *fns, size_t count)
{
    uint8_t *data = malloc(LONGEST + 64);
    uint64_t state = 1;

    CHECK(data);
    fill_random(data, LONGEST + 64, &state);
    for (unsigned round = 0; round < 3000; round++) {
        size_t len = rng(&state) % (round % 2 ? LONGEST : 900), align = rng(&state) % 64, cut = len ? rng(&state) % len : 0;
        uint32_t seed = round % 3 ? (uint32_t)rng(&state) : 0, want = crc32c_portable(seed, data + align, len);

        for (size_t i = 0; i < count; i++) {
            CHECK_EQ(fns[i](seed, data + align, len), want);
            CHECK_EQ(fns[i](fns[i](seed, data + align, cut), data + align + cut, len - cut), want);
        }
    }
    free(data);
}

int main(void)
{
    crc_fn fns[5] = {crc32c_portable, cxl_crc32c};
    size_t count = 2;

    if (__builtin_cpu_supports("sse4.2"))
        fns[count++] = crc32c_sse42;
    if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul"))
        fns[count++] = crc32c_three_streams;
    if (crc32c_can_fold())
        fns[count++] = crc32c_folded;
    TEST("vectors of RFC 3720");
    for (size_t i = 0; i < count; i++)
        test_vectors(fns[i]);
    TEST("implementations agree, whole and in two parts");
    test_agreement(fns, count);
    if (count < 5)
        SKIP("this CPU has no SSE4.2, PCLMULQDQ or VPCLMULQDQ, so not every implementation ran");
    return 0;
}
