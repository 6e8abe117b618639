# SPDX-License-Identifier: GPL-3.0-or-later
"""One pool of pages that carries a block volume and lends the rest as memory: format, policy, and the way to the core."""
