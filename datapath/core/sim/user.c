/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "user.h"

#include <errno.h>
#include <string.h>

static bool overlaps(const struct user *u, uint32_t block, uint32_t blocks)
{
    for (uint32_t i = 0; i < USER_JOBS; i++) {
        const struct job *j = &u->jobs[i];

        if (j->busy && block < j->block + j->blocks && j->block < block + blocks)
            return true;
    }
    return false;
}

static struct job *free_job(struct user *u)
{
    for (uint32_t i = 0; i < USER_JOBS; i++) {
        if (!u->jobs[i].busy)
            return &u->jobs[i];
    }
    return NULL;
}

static uint32_t some_op(void)
{
    static const uint8_t ops[] = {CBD_WRITE, CBD_WRITE, CBD_WRITE, CBD_READ, CBD_READ, CBD_READ, CBD_WRITE_ZEROES, CBD_FLUSH};

    return ops[sim_random(sizeof(ops))];
}

int user_submit(struct user *u)
{
    struct job *j = free_job(u);
    uint32_t blocks = 1 + sim_random(USER_BLOCKS), block = sim_random(MEDIUM_BLOCKS - blocks + 1);
    uint32_t op = some_op(), len = op == CBD_FLUSH ? 0 : blocks * MEDIUM_BLOCK;
    int err;

    if (!j || overlaps(u, block, blocks))
        return 0;
    for (uint32_t i = 0; i < sizeof(j->buf); i += sizeof(uint32_t)) {
        uint32_t word = sim_random(UINT32_MAX);

        memcpy(j->buf + i, &word, sizeof(word));
    }
    j->op = op;
    j->block = block;
    j->blocks = op == CBD_FLUSH ? 0 : blocks;
    j->busy = true; /* before a power cut in the middle of the submission */
    err = cbd_queue_submit(u->queue, op, 0, len ? block * MEDIUM_BLOCK : 0, len, j->buf, (uint64_t)(j - u->jobs));
    j->busy = !err;
    u->sent += !err;
    return err == -EAGAIN ? 0 : err;
}

static void finish(struct user *u, struct job *j, int32_t result)
{
    uint8_t *content = u->content + j->block * MEDIUM_BLOCK;
    uint32_t len = j->blocks * MEDIUM_BLOCK;

    if (result == -EIO)
        sim_lost("a request failed with an I/O error");
    if (result)
        sim_fail("a request (op %u) ended with %d", j->op, result);
    if (j->op == CBD_WRITE)
        memcpy(content, j->buf, len);
    else if (j->op == CBD_WRITE_ZEROES)
        memset(content, 0, len);
    else if (j->op == CBD_READ && memcmp(content, j->buf, len))
        sim_fail("a read of %u blocks at block %u returned wrong bytes", j->blocks, j->block);
    j->busy = false;
    u->ended++;
    sim_progress();
}

uint32_t user_poll(struct user *u)
{
    struct cbd_completion done[USER_JOBS];
    int n = cbd_queue_poll(u->queue, done, USER_JOBS);

    for (int i = 0; i < n; i++) {
        if (done[i].user >= USER_JOBS || !u->jobs[done[i].user].busy)
            sim_fail("a request ended that was not in flight");
        finish(u, &u->jobs[done[i].user], done[i].result);
    }
    return (uint32_t)n;
}

/* What a request in flight would make of a block. */
static bool may_be(const struct user *u, uint32_t block, const uint8_t *bytes)
{
    static const uint8_t zeroes[MEDIUM_BLOCK];

    for (uint32_t i = 0; i < USER_JOBS; i++) {
        const struct job *j = &u->jobs[i];

        if (!j->busy || j->op == CBD_READ || block - j->block >= j->blocks)
            continue;
        if (!memcmp(bytes, j->op == CBD_WRITE ? j->buf + (block - j->block) * MEDIUM_BLOCK : zeroes, MEDIUM_BLOCK))
            return true;
    }
    return false;
}

void user_check_medium(const struct user *u)
{
    for (uint32_t block = 0; block < MEDIUM_BLOCKS; block++) {
        const uint8_t *bytes = medium_bytes() + block * MEDIUM_BLOCK;

        if (memcmp(bytes, u->content + block * MEDIUM_BLOCK, MEDIUM_BLOCK) && !may_be(u, block, bytes))
            sim_fail("block %u of the medium holds what nobody wrote there last", block);
    }
}
