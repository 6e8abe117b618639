/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The functions that nbdkit itself gives its plugins, for a program that is no plugin. They accept what nbdkit(3) says they do.
 */
#define NBDKIT_API_VERSION 2
#include <errno.h>
#include <nbdkit-plugin.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "nbdkit_stub.h"

char nbdkit_stub_file[64];

/* Formats, as nbdkit does: an argument that does not fit its conversion shows. */
void nbdkit_error(const char *format, ...)
{
    static char text[8192];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
}

static int parse(const char *text, int64_t low, uint64_t high, uint64_t *out)
{
    char *end;

    errno = 0;
    if (*text == '-') {
        int64_t value = strtoll(text, &end, 0);

        *out = (uint64_t)value;
        return errno || end == text || *end || value < low ? -1 : 0;
    }
    *out = strtoull(text, &end, 0);
    return errno || end == text || *end || *out > high ? -1 : 0;
}

int nbdkit_parse_int(const char *what, const char *text, int *out)
{
    uint64_t value;

    (void)what;
    if (parse(text, INT32_MIN, INT32_MAX, &value))
        return -1;
    *out = (int)value;
    return 0;
}

int nbdkit_parse_uint32_t(const char *what, const char *text, uint32_t *out)
{
    uint64_t value;

    (void)what;
    if (parse(text, 0, UINT32_MAX, &value))
        return -1;
    *out = (uint32_t)value;
    return 0;
}

int nbdkit_parse_uint64_t(const char *what, const char *text, uint64_t *out)
{
    (void)what;
    return parse(text, 0, UINT64_MAX, out);
}

int64_t nbdkit_parse_size(const char *text)
{
    static const char units[] = "bkmgtpe";
    char number[32];
    size_t len = strlen(text);
    const char *unit = len ? strchr(units, text[len - 1] | 0x20) : NULL;
    unsigned shift = unit ? (unsigned)(unit - units) * 10 : 0;
    uint64_t value;

    if (len >= sizeof(number))
        return -1;
    memcpy(number, text, len + 1);
    if (unit)
        number[len - 1] = '\0';
    if (parse(number, 0, INT64_MAX >> shift, &value))
        return -1;
    return (int64_t)(value << shift);
}

int nbdkit_parse_bool(const char *text)
{
    return *text == '0' || *text == '1' ? *text - '0' : -1;
}

/* Only one file of the machine, whatever the input names. */
char *nbdkit_realpath(const char *path)
{
    return *path ? strdup(nbdkit_stub_file) : NULL;
}
