# SPDX-License-Identifier: GPL-3.0-or-later
"""What the worker processes do: one process per backend and per blkdev."""
