# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for input in the clients, which run in programs of others."""

from __future__ import annotations

import select
import socket


def has_input(connection: socket.socket, seconds: float) -> bool:
    """Whether there is something to read, the end included; waits for it for so long.

    By poll(), for select() knows descriptors below 1024 only.
    """
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
