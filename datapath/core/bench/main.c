/* SPDX-License-Identifier: GPL-3.0-or-later */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "world.h"

static const struct command *const commands[] = {&command_memcpy, &command_pingpong, &command_ring_rtt,
                                                 &command_direct, &command_kernel,   &command_idle,
                                                 &command_wakeup};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

void bench_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "cxl-bench: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(BENCH_USAGE);
}

void bench_report(const struct command *command, const char *unit, const struct samples *samples, double (*convert)(double ns),
                  const char *more)
{
    double p10 = convert(samples_percentile(samples, 10)), p50 = convert(samples_percentile(samples, 50)),
           p99 = convert(samples_percentile(samples, 99));

    if (!samples->count)
        bench_fail("%s: no sample in this time; give it more --seconds", command->name);
    printf("{\"name\": \"%s\", \"unit\": \"%s\", \"value\": %.6g, ", command->name, unit, p50);
    printf("\"p10\": %.6g, \"p50\": %.6g, \"p99\": %.6g, ", p10, p50, p99);
    printf("\"samples\": %llu%s, \"params\": {\"folder\": \"%s\", ", (unsigned long long)samples->count, more,
           world_folder());
    options_print(command->options);
    printf("}}\n");
}

static void help(void)
{
    printf("usage: cxl-bench [--folder PATH] COMMAND [--OPTION VALUE ...]\n"
           "Files are made in " WORLD_FOLDER " or PATH: a tmpfs that was mounted with huge=always has large pages, as devdax has.\n"
           "Prints one JSON object: name, unit, value (the median of this run), p10, p50, p99, samples, params.\n");
    for (size_t i = 0; i < COMMANDS; i++) {
        printf("\n  %s: %s\n", commands[i]->name, commands[i]->about);
        options_help(commands[i]->options);
    }
}

/* It becomes a part of the JSON as it is. */
static void use_folder(const char *path)
{
    if (*path != '/' || strpbrk(path, "\"\\\n"))
        bench_fail("--folder is an absolute path without quotes and backslashes, not %s", path);
    world_use_folder(path);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            help();
            return 0;
        }
    }
    if (argc > 2 && !strcmp(argv[1], "--folder")) {
        use_folder(argv[2]);
        argc -= 2;
        argv += 2;
    }
    for (size_t i = 0; argc > 1 && i < COMMANDS; i++) {
        if (!strcmp(commands[i]->name, argv[1])) {
            options_parse(commands[i]->options, argc - 2, argv + 2);
            commands[i]->run(commands[i]);
            return 0;
        }
    }
    bench_fail(argc > 1 ? "%s is no command; see --help" : "which command? see --help", argv[1]);
}
