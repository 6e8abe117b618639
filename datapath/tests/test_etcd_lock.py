# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks between hosts: two as one, and the one in etcd, against a real etcd and against answers that no etcd gives."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import PATIENCE_S, wait_until
from hypothesis import given
from hypothesis import strategies as st
from lab import MEMORY, MIB

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.locks.base import Both
from cxl_datapath.locks.etcd import EtcdLock, lease_id, ttl_of
from cxl_datapath.locks.gateway import Gateway, decode

NAME = "/cxl-lab/7e3f"


def refused(code: Code, action: Callable[[], object]) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert caught.value.hint, "an error without a next step"
    return caught.value


# ---- two locks as one


class Recorder:
    """A lock that writes down what is done with it; `fails` names what it refuses."""

    def __init__(self, name: str, log: list[str], fails: str = "", takes_s: float = 0.0) -> None:
        self.name, self.log, self.fails, self.takes_s = name, log, fails, takes_s
        self.patience: float | None = None
        self.now = [0.0]

    def _do(self, what: str) -> None:
        self.log.append(f"{what} {self.name}")
        if self.fails == what:
            raise DatapathError(Code.BUSY, self.name, "refused", "wait")

    def acquire(self, patience_s: float) -> None:
        self.patience = patience_s
        self.now[0] += self.takes_s
        self._do("acquire")

    def check(self) -> None:
        self._do("check")

    def release(self) -> None:
        self._do("release")


def both(log: list[str], first_fails: str = "", second_fails: str = "") -> Both:
    return Both(Recorder("first", log, first_fails), Recorder("second", log, second_fails))


def test_two_locks_are_taken_in_order_and_given_back_in_reverse():
    log: list[str] = []
    lock = both(log)
    lock.acquire(1)
    lock.check()
    lock.release()
    assert log == ["acquire first", "acquire second", "check first", "check second", "release second", "release first"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("acquire", "", ["acquire first"]),
        ("", "acquire", ["acquire first", "acquire second", "release first"]),
    ],
)
def test_one_lock_that_is_not_to_be_had_leaves_none(first, second, expected):
    log: list[str] = []
    refused(Code.BUSY, lambda: both(log, first, second).acquire(1))
    assert log == expected


@pytest.mark.parametrize(("first", "second"), [("check", ""), ("", "check")])
def test_one_lock_that_is_lost_is_enough(first, second):
    refused(Code.BUSY, both([], first, second).check)


def test_a_second_lock_that_cannot_be_given_back_does_not_keep_the_first():
    log: list[str] = []
    refused(Code.BUSY, both(log, "", "release").release)
    assert log == ["release second", "release first"]


def test_patience_is_for_both_together():
    first, second = Recorder("first", [], takes_s=3.0), Recorder("second", [])
    Both(first, second, clock=lambda: first.now[0]).acquire(5)
    assert (first.patience, second.patience) == (5, 2)
    Both(first, second, clock=lambda: first.now[0]).acquire(1)
    assert second.patience == 0


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
        os.kill(etcd.process.pid, signal.SIGSTOP)

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


# ---- answers that no etcd gives


def whole_request(peer: socket.socket) -> bytes:
    """One POST with its body; what does not begin like one (TLS) as far as it is there."""
    asked = peer.recv(65536)
    while asked.startswith(b"POST") and not re.search(rb"\r\n\r\n.*\}$", asked, re.DOTALL) and (more := peer.recv(65536)):
        asked += more
    return asked


class Stub:
    """A server that answers each request with the next bytes of its list, the last ones for ever, and keeps what it was asked.

    An answer of more than one piece is sent piece by piece, a tenth of a second apart.
    """

    def __init__(self, *answers: list[bytes]) -> None:
        self._answers = list(answers)
        self.asked: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(
                target=self._answer, args=(peer, self._answers.pop(0) if self._answers[1:] else self._answers[0])
            ).start()

    def _answer(self, peer: socket.socket, pieces: list[bytes]) -> None:
        with peer:
            try:
                self.asked.append(whole_request(peer))
                for number, piece in enumerate(pieces):
                    if number:
                        time.sleep(0.1)
                    peer.sendall(piece)
            except OSError:
                pass  # the client went

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


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


@pytest.fixture
def stub() -> Iterator[Callable[..., Stub]]:
    made: list[Stub] = []

    def make(*answers: list[bytes]) -> Stub:
        made.append(Stub(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def http(body: object, status: str = "200 OK") -> list[bytes]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return [f"HTTP/1.1 {status}\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw]


GRANTED = http({"ID": "77", "TTL": "15"})
KEY = base64.b64encode(f"{NAME}/4d".encode()).decode()


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ([[b""]], Code.FAILED),  # hangs up
        ([[b"SSH-2.0-OpenSSH_9.2\r\n"]], Code.FAILED),
        ([[b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{"]], Code.CORRUPT),  # ends early
        ([[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]], Code.FAILED),
        ([[b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n"]], Code.FAILED),
        ([http({"message": "etcdserver: user name is empty"}, "400 Bad Request")], Code.FAILED),
        ([http(b"moved", "301 Moved Permanently")], Code.FAILED),
        ([http(b"<html>hello</html>")], Code.CORRUPT),
        ([http(b"\xff\xfe" * 50)], Code.CORRUPT),
        ([http(b"[" * 60000)], Code.CORRUPT),
        ([http(b" " * 70000 + b"{}")], Code.CORRUPT),
        ([http([])], Code.CORRUPT),
        ([http({})], Code.CORRUPT),
        ([http({"ID": 77, "TTL": 15})], Code.CORRUPT),
        ([http({"ID": "77\r\nX: y", "TTL": "15"})], Code.CORRUPT),
        ([http({"ID": "77", "TTL": "0"})], Code.CORRUPT),
        ([http({"ID": "0", "TTL": "15"})], Code.CORRUPT),
        ([GRANTED, http({})], Code.CORRUPT),
        ([GRANTED, http({"key": "*"})], Code.CORRUPT),
        ([GRANTED, http({"key": base64.b64encode(b"/other/4d").decode()})], Code.CORRUPT),
        ([GRANTED, http({"error": "etcdserver: requested lease not found"}, "500 Internal Server Error")], Code.FAILED),
    ],
)
def test_an_answer_that_no_etcd_gives_is_an_error_that_names_the_url(stub, answers, code):
    server = stub(*answers)
    lock = EtcdLock(server.url, NAME)
    error = refused(code, lambda: lock.acquire(5))
    assert error.object == f"etcd {server.url}"
    assert len(str(error)) < 600
    refused(code, lambda: lock.acquire(5))  # it left nothing locked in this process


def test_the_answers_of_an_etcd_are_understood(stub):
    lock = EtcdLock(stub(GRANTED, http({"key": KEY}), http({})).url, NAME)
    lock.acquire(5)
    lock.check()
    lock.release()


def test_a_lease_that_etcd_made_shorter_counts(stub):
    now = [0.0]
    lock = EtcdLock(stub(http({"ID": "77", "TTL": "4"}), http({"key": KEY})).url, NAME, ttl_s=600, clock=lambda: now[0])
    lock.acquire(5)
    now[0] = 3.9
    lock.check()
    now[0] = 4.0
    refused(Code.BUSY, lock.check)
    lock.release()


@pytest.mark.parametrize(("ttl_s", "asked"), [(0.1, 2), (7.2, 8), (1200.0, 1200)])
def test_a_lease_is_asked_for_in_whole_seconds(stub, ttl_s, asked):
    server = stub(GRANTED, http({"key": KEY}))
    lock = EtcdLock(server.url, NAME, ttl_s)
    lock.acquire(5)
    lock.release()
    assert f'"TTL": "{asked}"'.encode() in server.asked[0]


def test_an_answer_that_drips_ends_with_the_patience(stub):
    server = stub([b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", *[b" "] * 300])
    error = refused(Code.TIMEOUT, lambda: Gateway(server.url).call("/v3/lease/grant", {}, 0.5))
    assert error.object == f"etcd {server.url}"


def test_https_speaks_tls(stub):
    url = stub(http({})).url.replace("http:", "https:")
    assert "SSL" in refused(Code.FAILED, lambda: Gateway(url).call("/v3/lease/grant", {}, 5)).message


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:2379",
        "ftp://127.0.0.1",
        "http://",
        "http://host:99999",
        "http://host:port",
        "http://[::1",
        "http://user:secret@host",
        "http://host/v3",
        "http://host?x",
        "http://host#x",
        "http://ho\r\nst",
        "http://höst",
    ],
)
def test_a_url_that_cannot_be_an_etcd(url):
    refused(Code.INVALID, lambda: EtcdLock(url, NAME))


@pytest.mark.parametrize("url", ["http://127.0.0.1:2379", "https://etcd.example/", "http://[::1]:2379"])
def test_a_url_that_can_be_an_etcd(url):
    assert Gateway(url).what == f"etcd {url}"


@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_arbitrary_bytes_are_an_object_or_nothing(raw):
    assert decode(raw) is None or isinstance(decode(raw), dict)


@given(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=30)
    | st.from_regex(r"-?[0-9]{1,25}", fullmatch=True)
)
def test_arbitrary_values_are_no_lease_or_a_sane_one(value):
    found = lease_id(value)
    assert found is None or (found == value and 0 < abs(int(found)) < 10**19)
    assert 0 <= ttl_of(value) < 10**10
