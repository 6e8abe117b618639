/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The options of a subcommand: one table that is parsed into, printed as help, and reported as the parameters of the result.
 */
#ifndef CXL_BENCH_OPTIONS_H
#define CXL_BENCH_OPTIONS_H

#include <stdint.h>

enum option_kind {
    OPTION_NUMBER,
    OPTION_SECONDS, /* fractions are allowed; the value is in milliseconds */
    OPTION_CHOICE,  /* the value is an index */
};

struct option {
    const char *name; /* NULL ends the table */
    const char *help;
    enum option_kind kind;
    const char *choices[5]; /* OPTION_CHOICE */
    uint64_t value;         /* the default, then what was given */
    uint64_t min, max;
};

/* argv: "--name value" pairs. Ends the program with status 2 and a message when anything is wrong. */
void options_parse(struct option *options, int argc, char **argv);
void options_help(const struct option *options);
/* "name": value, ... as JSON */
void options_print(const struct option *options);

#endif
