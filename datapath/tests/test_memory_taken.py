# SPDX-License-Identifier: GPL-3.0-or-later
"""One file for two purposes: what is the memory of a transport is no medium of a backend, for whatever daemon and by any name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host
from lab import LEASE_MS, MEMORY, Lab
from mishaps import paused

from cxl_datapath.backing import Use, share, share_file, take_lock
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.memory import resolve

SMALL = 1 << 20


@pytest.fixture
def opened(shared_file: Callable[[int], Path]) -> Iterator[Callable[[], int]]:
    """Opens one file again and again."""
    path, made = shared_file(SMALL), []

    def again() -> int:
        made.append(os.open(path, os.O_RDWR))
        return made[-1]

    yield again
    for fd in made:
        os.close(fd)


@pytest.mark.parametrize("use", list(Use))
def test_any_number_share_a_file_for_one_use_and_none_for_another(opened: Callable[[], int], use: Use) -> None:
    for _ in range(3):
        share_file(opened(), use)
    (other,) = set(Use) - {use}
    with pytest.raises(BlockingIOError):
        share_file(opened(), other)


def test_a_pool_keeps_transports_away_and_they_keep_pools_away(shared_file: Callable[[int], Path]) -> None:
    memory = resolve(str(shared_file(SMALL)))
    both = [share(memory), share(memory)]
    pool = os.open(memory.path, os.O_RDWR)
    with pytest.raises(BlockingIOError):
        take_lock(memory, pool)
    for fd in both:
        os.close(fd)
    take_lock(memory, pool)
    with pytest.raises(DatapathError) as caught:
        share(memory)
    assert (caught.value.code, "pool" in caught.value.hint) == (Code.BUSY, True)
    os.close(pool)


# ---- daemons


@pytest.fixture
def link(lab: Lab) -> Iterator[str]:
    """Another name of the memory of pool0."""
    path = Path(lab.memory + ".link")
    path.hardlink_to(lab.memory)
    yield str(path)
    path.unlink()


@pytest.fixture
def other(make_host: Callable[..., Host], shared_file: Callable[[int], Path], lab: Lab) -> Host:
    """A daemon that has a transport of its own, and nothing to do with pool0."""
    host = make_host("node3")
    memory = str(shared_file(MEMORY))
    host.call("cbd.transport.format", memory=memory, name="pool1", ring_depth=16, lease_ms=LEASE_MS)
    host.call("cbd.transport.register", memory=memory)
    return host


@pytest.mark.parametrize("read_only", [False, True])
def test_the_memory_of_a_transport_is_no_backend(lab: Lab, other: Host, link: str, read_only: bool) -> None:
    for host, transport in ((other, "pool1"), (lab.node1, "pool0")):
        for path in (lab.memory, link):
            error = host.refuse(Code.BUSY, "cbd.backend.start", transport=transport, path=path, read_only=read_only)
            assert "transport" in error.message + error.hint
    assert other.call("cbd.backend.list", transport="pool1") == []
    assert [row["state"] for row in lab.node2.call("cbd.transport.list")] == ["running"]
    error = other.refuse(Code.BUSY, "cbd.transport.format", memory=link, name="pool2", force=True)
    assert "node1, node2" in error.message


@pytest.mark.parametrize("read_only", [False, True])
def test_the_medium_of_a_backend_is_no_memory(lab: Lab, other: Host, link: str, read_only: bool) -> None:
    for node in (lab.node1, lab.node2):
        node.call("cbd.transport.unregister", transport="pool0")
    other.call("cbd.backend.start", transport="pool1", path=lab.memory, read_only=read_only)
    for host in (lab.node1, other):
        for memory in (lab.memory, link):
            error = host.refuse(Code.BUSY, "cbd.transport.register", memory=memory)
            assert "backend" in error.message + error.hint
    other.call("cbd.backend.stop", transport="pool1", id=0)
    for host in (lab.node1, lab.node2, other):
        assert host.call("cbd.transport.register", memory=lab.memory)["state"] == "running"


def test_the_memory_of_a_host_that_only_sleeps_is_not_formatted(lab: Lab, other: Host) -> None:
    with paused({lab.node1.pid, lab.node2.pid}):
        error = other.refuse(Code.BUSY, "cbd.transport.format", memory=lab.memory, name="pool2", force=True)
        assert re.search(r"is locked by \S+ \(process \d+\)", error.message)
        assert "transport" in error.hint
    assert other.call("cbd.transport.probe", memory=lab.memory)["info"]["name"] == "pool0"
