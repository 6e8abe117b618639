/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Runs a target on the files that are given, in a build without libFuzzer.
 */
#include <stdio.h>

#include "../tests/check.h"
#include "fuzz.h"

static uint8_t input[1U << 20];

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        uint8_t *exact;
        size_t size;

        CHECK(file);
        size = fread(input, 1, sizeof(input), file);
        fclose(file);
        exact = malloc(size); /* so that one byte too far is found */
        CHECK(exact || !size);
        if (size)
            memcpy(exact, input, size);
        fprintf(stderr, "%s\n", argv[i]);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}
