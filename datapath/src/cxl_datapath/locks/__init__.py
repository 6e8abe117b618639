# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks between hosts for management operations: one interface, met by `cbd.claim.Bakery` and by an etcd lease."""
