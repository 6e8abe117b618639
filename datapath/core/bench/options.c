/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

static bool parse_number(const char *text, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno;
}

static bool parse_seconds(const char *text, uint64_t *out)
{
    char *end;
    double seconds = strtod(text, &end);

    if (end == text || *end || !(seconds >= 0 && seconds < 1e6))
        return false;
    *out = (uint64_t)(seconds * 1000 + 0.5);
    return true;
}

static bool parse_choice(const struct option *option, const char *text, uint64_t *out)
{
    for (*out = 0; option->choices[*out]; ++*out) {
        if (!strcmp(option->choices[*out], text))
            return true;
    }
    return false;
}

static bool parse(const struct option *option, const char *text, uint64_t *out)
{
    switch (option->kind) {
    case OPTION_NUMBER:
        return parse_number(text, out) && *out >= option->min && *out <= option->max;
    case OPTION_SECONDS:
        return parse_seconds(text, out) && *out >= option->min && *out <= option->max;
    case OPTION_CHOICE:
        return parse_choice(option, text, out);
    }
    return false;
}

static void print_domain(FILE *to, const struct option *option)
{
    if (option->kind == OPTION_NUMBER)
        fprintf(to, "%" PRIu64 " to %" PRIu64, option->min, option->max);
    if (option->kind == OPTION_SECONDS)
        fprintf(to, "%g to %g seconds", (double)option->min / 1000, (double)option->max / 1000);
    for (int i = 0; option->kind == OPTION_CHOICE && option->choices[i]; i++)
        fprintf(to, "%s%s", i ? " or " : "", option->choices[i]);
}

static struct option *find(struct option *options, const char *argument)
{
    for (struct option *o = options; o->name; o++) {
        if (!strncmp(argument, "--", 2) && !strcmp(argument + 2, o->name))
            return o;
    }
    bench_fail("%s is no option here; see --help", argument);
}

void options_parse(struct option *options, int argc, char **argv)
{
    for (int i = 0; i < argc; i += 2) {
        struct option *option = find(options, argv[i]);

        if (i + 1 == argc)
            bench_fail("%s needs a value", argv[i]);
        if (parse(option, argv[i + 1], &option->value))
            continue;
        fprintf(stderr, "cxl-bench: %s is ", argv[i]);
        print_domain(stderr, option);
        fprintf(stderr, ", not %s\n", argv[i + 1]);
        exit(BENCH_USAGE);
    }
}

static void print_value(FILE *to, const struct option *option)
{
    if (option->kind == OPTION_CHOICE)
        fprintf(to, "%s", option->choices[option->value]);
    else if (option->kind == OPTION_SECONDS)
        fprintf(to, "%g", (double)option->value / 1000);
    else
        fprintf(to, "%" PRIu64, option->value);
}

void options_help(const struct option *options)
{
    for (const struct option *o = options; o->name; o++) {
        printf("    --%-13s %s (", o->name, o->help);
        print_domain(stdout, o);
        printf("; default ");
        print_value(stdout, o);
        printf(")\n");
    }
}

void options_print(const struct option *options)
{
    for (const struct option *o = options; o->name; o++) {
        const char *quote = o->kind == OPTION_CHOICE ? "\"" : "";

        printf("%s\"%s\": %s", o == options ? "" : ", ", o->name, quote);
        print_value(stdout, o);
        printf("%s", quote);
    }
}
