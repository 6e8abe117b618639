# SPDX-License-Identifier: GPL-3.0-or-later
"""A package, so that its files may be named like those of the daemon's tests."""
