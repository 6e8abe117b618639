# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients that ask for more than there is room for, faults of the pool's process, and memory that others take meanwhile."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack

import pytest
from hosts import wait_until
from mishaps import small_disk
from test_kmem_blk_server import NOBODY, Served, memory, runtime, served  # noqa: F401  (fixtures)

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk import connections
from cxl_datapath.kmem_blk.client import PoolClient
from cxl_datapath.kmem_blk.format import plan_format, write_format
from cxl_datapath.kmem_blk.layout import PAGE
from cxl_datapath.kmem_blk.leases import LEASES_EACH, LEASES_MAX, Lease
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import Memory
from cxl_datapath.peers import Peer

MIB = 1 << 20


def test_many_small_leases_leave_the_status_readable(served):  # noqa: F811
    """Of one process and of many: what the pool says of itself has to fit into a packet."""
    with served.client() as client:
        with pytest.raises(DatapathError) as caught:
            for _ in range(LEASES_MAX + 1):
                client.lease(1)
        assert caught.value.code == Code.DENIED
        assert len(client.call("status")["leases"]) == LEASES_EACH
    wait_until(lambda: served.used("leases") == 0, "all are back")
    with pytest.raises(DatapathError) as caught:
        for number in range(LEASES_MAX + 1):
            served.leases.grant(4_000_000 + number // LEASES_EACH, 1)
    assert caught.value.code == Code.FULL
    with served.client() as client:
        assert len(client.call("status")["leases"]) == LEASES_MAX
    for lease in list(served.leases.held):
        served.leases.release(lease)


def test_a_lease_larger_than_any_pool_is_refused_without_a_list_of_its_pages(served, monkeypatch):  # noqa: F811
    served.leases.limit = 1 << 40
    monkeypatch.setattr(served.pool.pages, "take", lambda *_: pytest.fail("asks for gigabytes"))
    with served.client() as client, pytest.raises(DatapathError) as caught:
        client.lease(1 << 32)
    assert caught.value.code == Code.FULL


def test_a_pool_that_could_not_let_a_client_in_lets_the_next_one_in(served, monkeypatch):  # noqa: F811
    monkeypatch.setattr(connections, "RETRY_S", 0.01)
    failures = iter([OSError(24, "too many open files"), RuntimeError("can't start new thread")])
    closing, came = threading.Event(), threading.Event()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    class Listener:
        def accept(self):
            for failure in failures:
                raise failure
            closing.set()
            return theirs, None

    connections.accept_all(Listener(), closing, lambda connection: (connection.link.close(), came.set()))  # type: ignore[arg-type]
    assert came.wait(20)
    ours.close()


def test_guests_take_their_own_places_only():
    guest, root = Peer(1, NOBODY, NOBODY), Peer(2, 0, 0)
    ours, theirs = socket.socketpair()
    everybody = connections.Connections()
    for _ in range(connections.CLIENTS_MAX):
        everybody.add(connections.Connection(guest, ours))
    with pytest.raises(DatapathError) as caught:
        everybody.add(connections.Connection(guest, ours))
    assert caught.value.code == Code.BUSY
    everybody.add(connections.Connection(root, ours))
    everybody.discard(everybody.now()[0])
    assert len(everybody.now()) == connections.CLIENTS_MAX
    ours.close()
    theirs.close()


def test_a_client_waits_while_too_many_others_wait_too(runtime):  # noqa: F811
    path = runtime / "pool0.pool"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, ExitStack() as stack:
        listener.bind(str(path))
        listener.listen(0)
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(waiting.close)
        waiting.connect(str(path))
        found: list[object] = []

        def connect() -> None:
            try:
                found.append(stack.enter_context(PoolClient(path, timeout=20)))
            except DatapathError as error:
                found.append(error)

        late = threading.Thread(target=connect)
        late.start()
        for _ in range(2):
            stack.callback(listener.accept()[0].close)
        late.join()
        assert isinstance(found[0], PoolClient), found


def test_a_fault_of_ours_costs_neither_the_client_nor_the_next_recall(served, monkeypatch):  # noqa: F811
    served.leases.limit = 1 << 20
    free = served.pool.pages.counts()["available"]
    with served.client() as client:
        with monkeypatch.context() as broken:
            broken.setattr(served.leases, "grant", lambda *_: 1 / 0)
            with pytest.raises(DatapathError) as caught:
                client.lease(1)
            assert caught.value.code == Code.FAILED
        client.lease(free)
        real, faults = served.leases.to_recall, iter([ZeroDivisionError()])

        def to_recall(wanted: int) -> list[Lease]:
            for fault in faults:
                raise fault
            return real(wanted)

        monkeypatch.setattr(served.leases, "to_recall", to_recall)
        with pytest.raises(DatapathError) as caught:
            served.pool.blocks.write(0, b"\x01" * PAGE)  # its recall is the one that fails
        assert caught.value.code == Code.FULL
        # Somebody gives a page and takes it again: the next write hopes again, and is heard.
        served.pool.pages.give(served.leases.held[0].pages[-1:])
        served.pool.pages.claim(served.leases.held[0].pages[-1:])
        served.pool.blocks.write(0, b"\x01" * PAGE)
        assert served.used("blocks") == 1


def test_a_lease_that_cannot_be_taken_does_not_shield_others(served):  # noqa: F811
    """Of devdax: its client was asked, and still maps it."""
    shape = {"fd": -1, "path": "/dev/dax", "extents": []}
    old, late = Lease(1, 11, [7] * 512, **shape), Lease(2, 12, [9] * 512, **shape)
    served.leases.held = [old, late]
    try:
        assert served.leases.to_recall(10) == [late]
        late.recalled = True
        assert served.leases.to_recall(10) == [old]
        old.recalled = True
        assert served.leases.to_recall(10) == []
    finally:
        served.leases.held = []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_pages_stay_away_until_their_memory_is_there_again(runtime, tmp_path):  # noqa: F811
    """What a lease took out of the file has gone to somebody else: a write into such a page would end the pool's process."""
    with small_disk(tmp_path / "small", 8 * MIB) as folder, ExitStack() as stack:
        path, hog = folder / "memory", folder / "hog"
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * MIB)
        made = Memory("memory", str(path), 2 * MIB, "file")
        with Mapping(made) as mapping:
            write_format(mapping, plan_format(made.size, "pool0"))
        served = Served(made, runtime, stack)
        lease = served.leases.grant(1, 256)
        assert path.stat().st_blocks * 512 <= MIB
        with hog.open("wb") as file, pytest.raises(OSError, match="space"):
            while True:
                os.write(file.fileno(), bytes(PAGE))
        served.leases.release(lease)
        assert served.used("leases") == 256 and not served.leases.held
        hog.unlink()
        served.server.reap()
        assert served.used("leases") == 0 and path.stat().st_blocks * 512 >= 2 * MIB
