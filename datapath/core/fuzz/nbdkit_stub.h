/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef CXL_FUZZ_NBDKIT_STUB_H
#define CXL_FUZZ_NBDKIT_STUB_H

extern char nbdkit_stub_file[64]; /* what every path leads to */

#endif
