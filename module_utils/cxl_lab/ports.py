# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports on the loopback address, looked at by binding them."""

from __future__ import annotations

import socket


def port_problem(port: int) -> str:
    """Why nobody could listen on this port now ("Address already in use"), "" when somebody could."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as taken:
            return taken.strerror or str(taken)
    return ""


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
