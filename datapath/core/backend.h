/* SPDX-License-Identifier: GPL-3.0-or-later */
#ifndef CXL_BACKEND_H
#define CXL_BACKEND_H

#include "cxl_core.h"
#include "device.h"

/* cbd_backend_new() over something that is no descriptor: steps are performed by perform(ctx); so the engine is not the kernel's. */
int backend_new_on(const struct cxl_mem *mem, const struct cbd_backend_conf *conf, device_performer *perform, void *ctx,
                   struct cbd_backend **out);

#endif
