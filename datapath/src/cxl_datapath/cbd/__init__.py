# SPDX-License-Identifier: GPL-3.0-or-later
"""CBD: a block device of one host, reached by another through shared memory. The bytes are in `docs/cbd-format.md`."""
