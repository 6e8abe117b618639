# SPDX-License-Identifier: GPL-3.0-or-later
"""The host of a dynamic-capacity device, in user space: no kernel up to 7.3 has a driver for it (docs/dcd.md)."""
