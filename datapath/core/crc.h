/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * CRC32C (Castagnoli, reflected, as in RFC 3720). A seed is 0 or the CRC of the bytes before.
 */
#ifndef CXL_CRC_H
#define CXL_CRC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cxl_core.h"

/* cxl_crc32c() takes the best one for the CPU; the others are visible to the tests, which compare them. */
uint32_t crc32c_portable(uint32_t seed, const void *data, size_t len);
uint32_t crc32c_sse42(uint32_t seed, const void *data, size_t len);         /* one stream; needs SSE4.2 */
uint32_t crc32c_three_streams(uint32_t seed, const void *data, size_t len); /* needs SSE4.2 and PCLMULQDQ */
uint32_t crc32c_folded(uint32_t seed, const void *data, size_t len);        /* needs what follows */
bool crc32c_can_fold(void);

#endif
