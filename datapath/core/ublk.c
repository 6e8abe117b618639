/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Placeholder of the ublk front end: every start reports that it is not available.
 */
#include <errno.h>

#include "cxl_core.h"

int cbd_ublk_start(const struct cxl_mem *mem, const struct cbd_channel_conf *channels, const struct cbd_ublk_conf *conf,
                   struct cbd_ublk **out)
{
    (void)mem, (void)channels, (void)conf, (void)out;
    return -ENOSYS;
}

int cbd_ublk_dev_id(const struct cbd_ublk *u)
{
    (void)u;
    return -ENOSYS;
}

void cbd_ublk_stats(struct cbd_ublk *u, struct cbd_stats *out)
{
    (void)u;
    *out = (struct cbd_stats){0};
}

int cbd_ublk_stop(struct cbd_ublk *u)
{
    (void)u;
    return -ENOSYS;
}
