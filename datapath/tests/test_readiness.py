# SPDX-License-Identifier: GPL-3.0-or-later
"""Input on any descriptor."""

from __future__ import annotations

import fcntl
import os
import resource
import socket
from collections.abc import Iterator

import pytest

from cxl_datapath.readiness import has_input

HIGH = 1500  # above what select() can name


@pytest.fixture
def high() -> Iterator[tuple[socket.socket, socket.socket]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= HIGH:
        pytest.skip("no descriptor can be that high here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * HIGH if hard == resource.RLIM_INFINITY else hard, hard))
    ours, theirs = socket.socketpair()
    moved = socket.socket(fileno=fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, HIGH))
    ours.close()
    try:
        yield moved, theirs
    finally:
        moved.close()
        theirs.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nothing_then_bytes_then_the_end(high: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = high
    assert ours.fileno() >= HIGH
    assert not has_input(ours, 0.0)
    os.write(theirs.fileno(), b"x")
    assert has_input(ours, 10.0)
    assert ours.recv(1) == b"x" and not has_input(ours, 0.0)
    theirs.close()
    assert has_input(ours, 10.0)
