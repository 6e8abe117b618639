# SPDX-License-Identifier: GPL-3.0-or-later
"""User-space LUNs: the master of the contexts of this host (docs/cxlflash-format.md)."""
