# SPDX-License-Identifier: GPL-3.0-or-later
"""The fabric manager of dynamic capacity: what is offered to which host, and what became of it."""
