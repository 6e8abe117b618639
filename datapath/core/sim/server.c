/* SPDX-License-Identifier: GPL-3.0-or-later */
#include "server.h"

#include "medium.h"

void server_open(struct server *s, uint32_t host, uint64_t fence_off, const struct cbd_channel_conf *channel)
{
    s->shared.mem = sim_mem(host);
    s->shared.engine = CBD_ENGINE_SYNC + sim_random(3);
    s->shared.dev = (struct device){.fd = (int)host, .logical_block_size = MEDIUM_BLOCK, .capacity = MEDIUM_BYTES};
    s->turns = 0;
    if (fence_init(&s->shared.fence, &s->shared.mem, fence_off, 1) || handler_new(&s->shared, channel, &s->handler))
        sim_fail("no handler on host %u", host);
}

enum handler_did server_turn(struct server *s)
{
    enum handler_did did = handler_turn(s->handler);

    s->turns++;
    if (did == HANDLER_IDLED)
        sim_rest();
    return did;
}

void server_serve(struct server *s)
{
    while (server_turn(s) != HANDLER_ENDED)
        ;
}

uint64_t server_answered(const struct server *s)
{
    struct cbd_stats sum = {0};

    handler_sum_stats(s->handler, &sum);
    return sum.requests;
}

void server_close(struct server *s)
{
    handler_free(s->handler);
    s->handler = NULL;
}
