/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "crc.h"

#include <immintrin.h>
#include <string.h>

/* A CRC is linear, so an entry of a table is the XOR of the entries of its index bits. Row k below holds the CRC register after
 * each single bit of a byte that is followed by k zero bytes; the macros spell the eight tables out of the eight rows. */
#define BIT(i, b, c) ((((i) >> (b)) & 1U) ? (c) : 0U)
#define E1(i, a, b, c, d, e, f, g, h) \
    (BIT(i, 0, a) ^ BIT(i, 1, b) ^ BIT(i, 2, c) ^ BIT(i, 3, d) ^ BIT(i, 4, e) ^ BIT(i, 5, f) ^ BIT(i, 6, g) ^ BIT(i, 7, h))
#define E4(i, ...) E1(i, __VA_ARGS__), E1((i) + 1U, __VA_ARGS__), E1((i) + 2U, __VA_ARGS__), E1((i) + 3U, __VA_ARGS__)
#define E16(i, ...) E4(i, __VA_ARGS__), E4((i) + 4U, __VA_ARGS__), E4((i) + 8U, __VA_ARGS__), E4((i) + 12U, __VA_ARGS__)
#define E64(i, ...) E16(i, __VA_ARGS__), E16((i) + 16U, __VA_ARGS__), E16((i) + 32U, __VA_ARGS__), E16((i) + 48U, __VA_ARGS__)
#define TABLE(...) {E64(0U, __VA_ARGS__), E64(64U, __VA_ARGS__), E64(128U, __VA_ARGS__), E64(192U, __VA_ARGS__)}

static const uint32_t tables[8][256] = {
    TABLE(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
    TABLE(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
    TABLE(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
    TABLE(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
    TABLE(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
    TABLE(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
    TABLE(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
    TABLE(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
};

static uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t load32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

uint32_t crc32c_portable(uint32_t seed, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint32_t crc = ~seed;

    for (; len >= 8; len -= 8, p += 8) {
        uint64_t v = load64(p) ^ crc;

        crc = 0;
        for (unsigned i = 0; i < 8; i++)
            crc ^= tables[7 - i][(v >> (8 * i)) & 0xff];
    }
    for (; len; len--)
        crc = (crc >> 8) ^ tables[0][(crc ^ *p++) & 0xff];
    return ~crc;
}

/* The register, without the inversion at both ends. */
__attribute__((target("sse4.2"))) static uint32_t one_stream(uint32_t crc, const uint8_t *p, size_t len)
{
    uint64_t wide = crc;

    for (; len >= 8; len -= 8, p += 8)
        wide = _mm_crc32_u64(wide, load64(p));
    crc = (uint32_t)wide;
    if (len >= 4) { /* a slot's CRC ends here */
        crc = _mm_crc32_u32(crc, load32(p));
        p += 4;
        len -= 4;
    }
    for (; len; len--)
        crc = _mm_crc32_u8(crc, *p++);
    return crc;
}

__attribute__((target("sse4.2"))) uint32_t crc32c_sse42(uint32_t seed, const void *data, size_t len)
{
    return ~one_stream(~seed, data, len);
}

/* One instruction has a latency of three cycles and a throughput of one, hence three independent streams over the thirds of a
 * block. Moving a register past n zero bytes is a multiplication by x^8n modulo the polynomial: a carry-less product by a
 * constant, which the CRC instruction itself reduces (it multiplies by x^32, and the reflected product by x: so the constants are
 * x^(8n - 33), reflected). */
struct third {
    size_t bytes;
    uint32_t past_one, past_two; /* thirds */
};

static const struct third thirds[] = {
    {.bytes = 1360, .past_one = 0x3f70cc6f, .past_two = 0x5aa1f3cf}, /* three of them are 4080 bytes: one page and a rest */
    {.bytes = 256, .past_one = 0xb9e02b86, .past_two = 0xdd7e3b0c},
};

__attribute__((target("sse4.2,pclmul"))) static uint64_t carryless(uint32_t crc, uint32_t by)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi32_si128((int)crc), _mm_cvtsi32_si128((int)by), 0);

    return (uint64_t)_mm_cvtsi128_si64(product);
}

__attribute__((target("sse4.2,pclmul"))) static uint32_t three_thirds(uint32_t crc, const uint8_t *p, const struct third *t)
{
    uint64_t a = crc, b = 0, c = 0;

    for (size_t i = 0; i < t->bytes; i += 8) {
        a = _mm_crc32_u64(a, load64(p + i));
        b = _mm_crc32_u64(b, load64(p + t->bytes + i));
        c = _mm_crc32_u64(c, load64(p + 2 * t->bytes + i));
    }
    a = carryless((uint32_t)a, t->past_two) ^ carryless((uint32_t)b, t->past_one);
    return (uint32_t)_mm_crc32_u64(0, a) ^ (uint32_t)c;
}

__attribute__((target("sse4.2,pclmul"))) uint32_t crc32c_three_streams(uint32_t seed, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint32_t crc = ~seed;

    for (size_t i = 0; i < sizeof(thirds) / sizeof(thirds[0]); i++) {
        size_t block = 3 * thirds[i].bytes;

        for (; len >= block; len -= block, p += block)
            crc = three_thirds(crc, p, &thirds[i]);
    }
    return ~one_stream(crc, p, len);
}

/* Four registers of four 128-bit lanes are 256 bytes of the message. Each lane is moved past the 256 bytes that follow by two
 * carry-less products (its first half by x^(8 * 256 + 63), its second by x^(8 * 256 - 1), reflected: the reflected product itself
 * multiplies by x), and lands on the same lane of those. The last 256 bytes then stand for all of them. */
#define FOLD 256U

__attribute__((target("avx512f,vpclmulqdq"))) static __m512i load512(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

__attribute__((target("avx512f,vpclmulqdq"))) static __m512i fold(__m512i lanes, __m512i by, const uint8_t *next)
{
    __m512i first = _mm512_clmulepi64_epi128(lanes, by, 0x00), second = _mm512_clmulepi64_epi128(lanes, by, 0x11);

    return _mm512_xor_si512(_mm512_xor_si512(first, second), load512(next));
}

__attribute__((target("avx512f,vpclmulqdq,sse4.2"))) uint32_t crc32c_folded(uint32_t seed, const void *data, size_t len)
{
    const __m512i by = _mm512_broadcast_i32x4(_mm_set_epi64x((long long)0x1426a81500000000ULL, (long long)0xe9a5d8be00000000ULL));
    const uint8_t *p = data;
    uint8_t rest[FOLD];
    __m512i a, b, c, d;

    if (len < FOLD)
        return crc32c_sse42(seed, data, len);
    a = _mm512_xor_si512(load512(p), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int)~seed)));
    b = load512(p + 64);
    c = load512(p + 128);
    d = load512(p + 192);
    for (p += FOLD, len -= FOLD; len >= FOLD; p += FOLD, len -= FOLD) {
        a = fold(a, by, p);
        b = fold(b, by, p + 64);
        c = fold(c, by, p + 128);
        d = fold(d, by, p + 192);
    }
    _mm512_storeu_si512(rest, a);
    _mm512_storeu_si512(rest + 64, b);
    _mm512_storeu_si512(rest + 128, c);
    _mm512_storeu_si512(rest + 192, d);
    return ~one_stream(one_stream(0, rest, FOLD), p, len);
}

bool crc32c_can_fold(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("sse4.2");
}

uint32_t cxl_crc32c(uint32_t seed, const void *data, size_t len)
{
    if (!__builtin_cpu_supports("sse4.2"))
        return crc32c_portable(seed, data, len);
    if (len < 3 * 256)
        return crc32c_sse42(seed, data, len);
    if (crc32c_can_fold())
        return crc32c_folded(seed, data, len);
    if (!__builtin_cpu_supports("pclmul"))
        return crc32c_sse42(seed, data, len);
    return crc32c_three_streams(seed, data, len);
}
