/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * cxl-bench: what this machine's memory can do, and what the core makes of it. One subcommand per figure.
 */
#ifndef CXL_BENCH_H
#define CXL_BENCH_H

#include "options.h"
#include "samples.h"

#define BENCH_USAGE 2

struct command {
    const char *name;
    const char *about;
    struct option *options;
    void (*run)(const struct command *command);
};

extern const struct command command_memcpy, command_pingpong, command_ring_rtt, command_direct, command_kernel, command_idle,
    command_wakeup;

/* Prints the one JSON object of a run. Percentiles of the samples, each through `convert`; value is p50. p10 is what a machine that
 * is busy with other things too would do undisturbed. more: further members (", \"name\": 1"), or "". */
void bench_report(const struct command *command, const char *unit, const struct samples *samples, double (*convert)(double ns),
                  const char *more);

/* "cxl-bench: ..." on standard error, and status BENCH_USAGE. */
__attribute__((format(printf, 1, 2), noreturn)) void bench_fail(const char *format, ...);

#endif
