/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A memory that remembers what was stored since it was last sure to be stable. A crash may lose any of these stores, line by line;
 * which of them, the test decides.
 */
#ifndef CXL_TESTS_RECORDED_MEM_H
#define CXL_TESTS_RECORDED_MEM_H

#include "mem.h"

/* base, len: the one memory that is recorded; others are plain. dropped: a site that does nothing, MEM_SITE_COUNT: none. */
void recording_start(uint8_t *base, uint64_t len, enum mem_site dropped, void (*at_each_step)(void));
void recording_stop(void);
/* Lines whose content may differ from the stable one. */
uint64_t unstable_lines(void);
/* The memory after a crash: of the n-th unstable line the newest content where keep(n, ctx), else the stable one. */
void after_crash(uint8_t *out, bool (*keep)(uint64_t n, const void *ctx), const void *ctx);

#endif
