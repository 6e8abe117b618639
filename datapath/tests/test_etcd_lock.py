# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks between hosts: two as one, and the one in etcd, against a real etcd and against answers that no etcd gives."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import PATIENCE_S, wait_until
from lab import MEMORY, MIB
from mishaps import halt
from refusals import refused

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.locks.etcd import EtcdLock
from cxl_datapath.locks.gateway import Gateway

NAME = "/cxl-lab/7e3f"


# ---- a real etcd

needs_etcd = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd (Debian package etcd-server)")


def free_ports(count: int) -> list[int]:
    with ExitStack() as open_sockets:
        found = [open_sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in found]


class Etcd:
    def __init__(self, folder: Path) -> None:
        client, peer = (f"http://127.0.0.1:{port}" for port in free_ports(2))
        self.url = client
        places = ["--data-dir", folder / "data", "--listen-client-urls", client, "--advertise-client-urls", client]
        peers = ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(["etcd", *places, *peers], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.gateway = Gateway(client)
        try:
            wait_until(self._serves, "etcd serves")
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def _serves(self) -> bool:
        assert self.process.poll() is None, "etcd ended"
        try:
            return bool(self.gateway.call("/v3/maintenance/status", {}, 5))
        except DatapathError:
            return False

    def keys(self) -> list[str]:
        """All keys that begin with "/"."""
        whole = {"key": base64.b64encode(b"/").decode(), "range_end": base64.b64encode(b"0").decode()}
        return [base64.b64decode(row["key"]).decode() for row in self.gateway.call("/v3/kv/range", whole, 5).get("kvs", [])]

    def leases(self) -> list[str]:
        return [row["ID"] for row in self.gateway.call("/v3/lease/leases", {}, 5).get("leases", [])]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    running = Etcd(tmp_path_factory.mktemp("etcd"))
    yield running
    running.end()


@needs_etcd
def test_never_two_at_a_time_and_nothing_is_left_behind(etcd):
    inside, most, done = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        lock = EtcdLock(etcd.url, NAME)
        for _ in range(5):
            lock.acquire(60)
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            lock.check()
            inside -= 1
            lock.release()
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(done)) == (1, 4)
    assert (etcd.keys(), etcd.leases()) == ([], [])


@needs_etcd
def test_a_lock_that_is_held_is_waited_for_and_named(etcd):
    holder, other = EtcdLock(etcd.url, NAME), EtcdLock(etcd.url, NAME)
    holder.acquire(30)
    error = refused(Code.BUSY, lambda: other.acquire(0.3))
    assert (error.object, NAME in error.message) == (f"etcd {etcd.url}", True)
    assert len(etcd.leases()) == len(etcd.keys()) == 1
    apart = EtcdLock(etcd.url, NAME + "0")
    apart.acquire(30)
    apart.release()
    holder.check()
    holder.release()
    holder.release()
    other.acquire(30)
    other.check()
    other.release()
    refused(Code.BUSY, other.check)


@needs_etcd
def test_threads_of_one_process_take_turns(etcd):
    lock = EtcdLock(etcd.url, NAME)
    lock.acquire(30)
    assert "another operation of this host" in refused(Code.BUSY, lambda: lock.acquire(0.01)).message
    lock.check()
    lock.release()


@needs_etcd
def test_a_lock_is_kept_for_longer_than_its_lease(etcd):
    lock = EtcdLock(etcd.url, NAME, ttl_s=2)
    lock.acquire(30)
    refused(Code.BUSY, lambda: EtcdLock(etcd.url, NAME).acquire(4))
    lock.check()
    lock.release()


@needs_etcd
def test_a_lease_that_somebody_revokes_is_noticed(etcd):
    lock = EtcdLock(etcd.url, NAME, ttl_s=3)
    lock.acquire(30)
    etcd.gateway.call("/v3/lease/revoke", {"ID": etcd.leases()[0]}, 5)

    def lost() -> bool:
        try:
            lock.check()
        except DatapathError:
            return True
        return False

    wait_until(lost, "the holder notices")
    lock.release()
    assert etcd.leases() == []


@needs_etcd
def test_the_lock_of_a_killed_holder_is_free_after_its_lease(etcd):
    program = (
        "import sys, time\nfrom cxl_datapath.locks.etcd import EtcdLock\n"
        f"EtcdLock({etcd.url!r}, {NAME!r}, ttl_s=2).acquire(30)\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    lock = EtcdLock(etcd.url, NAME)
    lock.acquire(PATIENCE_S)
    lock.release()


@needs_etcd
def test_a_holder_that_cannot_reach_etcd_believes_no_longer_than_its_lease(tmp_path):
    etcd = Etcd(tmp_path)
    try:
        lock = EtcdLock(etcd.url, NAME, ttl_s=2)
        lock.acquire(30)
        halt(etcd.process.pid)

        def lost() -> bool:
            try:
                lock.check()
            except DatapathError as error:
                return error.code == Code.BUSY
            return False

        wait_until(lost, "the holder gives up")
        error = refused(Code.TIMEOUT, lambda: etcd.gateway.call("/v3/maintenance/status", {}, 0.2))
        assert error.object == f"etcd {etcd.url}"
        os.kill(etcd.process.pid, signal.SIGCONT)
        lock.release()
        again = EtcdLock(etcd.url, NAME)
        again.acquire(PATIENCE_S)
        again.release()
    finally:
        etcd.end()
    error = refused(Code.FAILED, lambda: EtcdLock(etcd.url, NAME).acquire(1))
    assert (error.object, "--etcd" in error.hint) == (f"etcd {etcd.url}", True)


@needs_etcd
def test_daemons_take_it_beside_the_claim_and_say_when_it_is_not_there(tmp_path, shared_file, make_host):
    (tmp_path / "etcd").mkdir()
    etcd = Etcd(tmp_path / "etcd")
    try:
        memory = str(shared_file(MEMORY))
        hosts = [make_host(name, options=("--etcd", etcd.url)) for name in ("node1", "node2")]
        hosts[0].call("cbd.transport.format", memory=memory, name="pool0", ring_depth=16, lease_ms=1000)
        for host in hosts:
            host.call("cbd.transport.register", memory=memory)
        disks = [tmp_path / name for name in ("a", "b", "c", "d")]
        for disk in disks:
            disk.write_bytes(bytes(MIB))
        with ThreadPoolExecutor(4) as pool:
            starts = [
                pool.submit(host.call, "cbd.backend.start", transport="pool0", path=str(disk))
                for host, disk in zip(hosts * 2, disks, strict=True)
            ]
        assert sorted(start.result()["id"] for start in starts) == [0, 1, 2, 3]
    finally:
        etcd.end()
    (tmp_path / "e").write_bytes(bytes(MIB))
    with pytest.raises(DatapathError) as caught:
        hosts[0].call("cbd.backend.start", transport="pool0", path=str(tmp_path / "e"))
    assert etcd.url in str(caught.value)
    assert len(hosts[1].call("cbd.backend.list", transport="pool0")) == 4
