/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the fuzz targets have in common. A target is one program with LLVMFuzzerTestOneInput(): libFuzzer calls it with inputs that it
 * grows from corpus/<target>, replay.c with the inputs of that folder and nothing else. Input is read from the front; where it ends,
 * zeroes follow, so that every byte string is an input.
 */
#ifndef CXL_FUZZ_H
#define CXL_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "cbd_format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *at, *end;
};

static inline bool input_left(const struct input *in)
{
    return in->at < in->end;
}

static inline void take(struct input *in, void *out, size_t len)
{
    size_t left = (size_t)(in->end - in->at), n = len < left ? len : left;

    memset(out, 0, len);
    memcpy(out, in->at, n);
    in->at += n;
}

static inline uint8_t take8(struct input *in)
{
    uint8_t byte;

    take(in, &byte, sizeof(byte));
    return byte;
}

static inline uint64_t take64(struct input *in)
{
    uint64_t word;

    take(in, &word, sizeof(word));
    return word;
}

/* Overwrites the fields of a slot that a mask of the input names; seq, epoch and CRC are the ring's. */
static inline void spoil(struct input *in, struct cbd_slot *s)
{
    uint16_t fields;

    take(in, &fields, sizeof(fields));
    if (fields & 1)
        s->op = take8(in);
    if (fields & 2)
        s->flags = take8(in);
    if (fields & 4)
        take(in, &s->tag, sizeof(s->tag));
    if (fields & 8)
        s->tid = take64(in);
    if (fields & 16)
        s->offset = take64(in);
    if (fields & 32)
        take(in, &s->len, sizeof(s->len));
    if (fields & 64)
        take(in, &s->data_off, sizeof(s->data_off));
    if (fields & 128)
        take(in, &s->data_len, sizeof(s->data_len));
    if (fields & 256)
        take(in, &s->result, sizeof(s->result));
    if (fields & 512)
        take(in, &s->data_crc, sizeof(s->data_crc));
    if (fields & 1024)
        take(in, &s->credit, sizeof(s->credit));
    if (fields & 2048)
        take(in, &s->reserved, sizeof(s->reserved));
}

#endif
