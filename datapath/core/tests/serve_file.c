/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A backend for tests of other programs:
 *   serve_file MEMORY hardware|software FEATURES RING_DEPTH SLOT_BYTES FILE BLOCK_SIZE READ_ONLY OFFSET:EPOCH...
 * Serves the channels from FILE, prints "ready", and ends when its standard input does.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"
#include "cxl_core.h"

enum { MEMORY = 1, COHERENCE, FEATURES, RING_DEPTH, SLOT_BYTES, BACKING, BLOCK_SIZE, READ_ONLY, CHANNELS };

static uint32_t number(const char *text)
{
    return (uint32_t)strtoul(text, NULL, 10);
}

static struct cxl_mem map(char **argv)
{
    int fd = open(argv[MEMORY], O_RDWR | O_CLOEXEC);
    struct stat st;
    struct cxl_mem mem;

    CHECK(fd >= 0);
    CHECK_EQ(fstat(fd, &st), 0);
    mem = (struct cxl_mem){.base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
                           .len = (uint64_t)st.st_size,
                           .coherence = strcmp(argv[COHERENCE], "software") ? CXL_COHERENCE_HARDWARE : CXL_COHERENCE_SOFTWARE};
    CHECK(mem.base != MAP_FAILED);
    close(fd);
    return mem;
}

int main(int argc, char **argv)
{
    struct cbd_backend_conf conf = {0};
    struct cbd_backend *backend;
    struct cxl_mem mem;
    struct stat st;
    char byte;

    CHECK(argc > CHANNELS);
    mem = map(argv);
    conf.read_only = number(argv[READ_ONLY]);
    conf.fd = open(argv[BACKING], (conf.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
    CHECK(conf.fd >= 0);
    CHECK_EQ(fstat(conf.fd, &st), 0);
    conf.logical_block_size = number(argv[BLOCK_SIZE]);
    conf.capacity = (uint64_t)st.st_size;
    CHECK_EQ(cbd_backend_new(&mem, &conf, &backend), 0);
    for (int i = CHANNELS; i < argc; i++) {
        struct cbd_channel_conf ch = {
            .ring_depth = number(argv[RING_DEPTH]), .slot_bytes = number(argv[SLOT_BYTES]), .features = number(argv[FEATURES])};

        CHECK_EQ(sscanf(argv[i], "%" SCNu64 ":%" SCNu32, &ch.channel_off, &ch.epoch), 2);
        CHECK_EQ(cbd_backend_add(backend, &ch), 0);
    }
    puts("ready");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, 1) > 0)
        ;
    cbd_backend_free(backend);
    munmap(mem.base, mem.len);
    close(conf.fd);
    return 0;
}
