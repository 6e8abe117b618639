# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools of a real daemon whose memory is not what it was, and whose process dies in the middle of a change."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import MIB
from test_kmem_blk_daemon import pool, pool_worker_pids, with_pool

from cxl_datapath.errors import Code
from cxl_datapath.kmem_blk.wire import PACKET_MAX

SIZE = 2 * MIB


@pytest.fixture
def memory(shared_file: Callable[[int], Path]) -> str:
    return str(shared_file(SIZE))


@pytest.fixture
def host(make_host: Callable[..., Host], memory: str) -> Host:
    return with_pool(make_host("node1"), memory)


def runs(host: Host) -> bool:
    return bool(pool(host)["state"] == "running")


@contextmanager
def answers_lost(host: Host, op: str) -> Iterator[None]:
    """The pool does what is asked for with `op`, and its client never hears of it."""
    path, real = host.runtime / "pool0.pool", host.runtime / "pool0.real"
    path.rename(real)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
                    server.connect(str(real))
                    while data := client.recv(PACKET_MAX):
                        server.send(data)
                        answer = server.recv(PACKET_MAX)
                        if f'"op": "{op}"'.encode() in data:
                            break
                        client.send(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    real.rename(path)


def test_a_memory_that_was_added_without_an_answer_still_belongs_to_the_pool(host, memory, shared_file):
    """The process of the pool died between the change and the answer: without the memory it would not start any more."""
    more = str(shared_file(SIZE))
    with answers_lost(host, "grow"):
        host.refuse(Code.FAILED, "kmem_blk.pool.grow", pool="pool0", memory=more)
    for pid in pool_worker_pids(host):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pool(host).get("ranges") and len(pool(host)["ranges"]) == 2 and runs(host), "it runs with both")
    host.stop()
    host.start()
    wait_until(lambda: runs(host), "it runs after a restart, too")
    assert host.call("kmem_blk.pool.grow", pool="pool0", memory=more)["memories"] == [memory, more]
    assert host.call("kmem_blk.pool.shrink", pool="pool0", memory=more)["memories"] == [memory]


def test_a_memory_that_is_refused_does_not_stay_wanted(host, memory, shared_file):
    more = shared_file(SIZE)
    more.write_bytes(b"precious" * (SIZE // 8))
    host.refuse(Code.EXISTS, "kmem_blk.pool.grow", pool="pool0", memory=str(more))
    assert pool(host)["memories"] == [memory]


def test_another_pool_of_that_name_is_not_served(host, make_host, memory):
    host.stop()
    make_host("node2").call("kmem_blk.pool.format", memory=memory, name="pool0", force=True)
    host.start()
    row = wait_until(lambda: pool(host)["reason"] and pool(host), "it is refused")
    assert "formatted again" in row["reason"]["hint"] and row["state"] != "running"
    host.call("kmem_blk.pool.stop", pool="pool0")
    assert host.call("kmem_blk.pool.start", memories=[memory])["state"] == "running"


def test_a_damaged_pool_is_not_proposed_to_be_formatted(host, memory):
    host.call("kmem_blk.pool.stop", pool="pool0")
    with Path(memory).open("r+b") as file:
        file.seek(20)
        file.write(b"X")
    error = host.refuse(Code.CORRUPT, "kmem_blk.pool.start", memories=[memory])
    assert "checksum" in error.message and "kmem-blk check" in error.hint and "format" not in error.hint
    os.truncate(memory, 0)
    os.truncate(memory, SIZE)
    assert "pool format" in host.refuse(Code.NOT_FOUND, "kmem_blk.pool.start", memories=[memory]).hint


def test_a_pool_starts_with_its_own_memories_only(host, memory, shared_file):
    other = str(shared_file(SIZE))
    assert "grow" in host.refuse(Code.EXISTS, "kmem_blk.pool.start", memories=[memory, other]).hint
    host.call("kmem_blk.pool.stop", pool="pool0")
    assert "grow" in host.refuse(Code.INVALID, "kmem_blk.pool.start", memories=[memory, other]).hint
    assert host.call("kmem_blk.pool.list") == []
    assert host.call("kmem_blk.pool.start", memories=[memory])["state"] == "running"
    host.call("kmem_blk.pool.grow", pool="pool0", memory=other)
    assert host.call("kmem_blk.pool.start", memories=[memory], reserve=3)["reserve"] == 3
    host.call("kmem_blk.pool.stop", pool="pool0")
    assert host.call("kmem_blk.pool.start", memories=[memory, other])["memories"] == [memory, other]
