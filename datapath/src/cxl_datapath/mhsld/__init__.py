# SPDX-License-Identifier: GPL-3.0-or-later
"""Who has which block of a multi-headed device: claims in a state file that every head's fabric manager maps."""
