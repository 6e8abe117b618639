# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of etcd against a peer that answers what a test says: what no etcd gives, and what every etcd does."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from cxl_datapath.errors import Code
from cxl_datapath.locks.etcd import EtcdLock, lease_id, ttl_of
from cxl_datapath.locks.gateway import Gateway, decode

NAME = "/cxl-lab/7e3f"


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
