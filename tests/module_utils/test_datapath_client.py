# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the control socket against a peer that answers what a test says; the real daemon is in test_cbd_modules.py."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import datapath_client
from ansible.module_utils.cxl_lab.datapath_client import DaemonAbsent, DatapathClient
from ansible.module_utils.cxl_lab.errors import LabError

HELLO = {"protocol": 1, "version": "0", "host": "node1", "pid": 1}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts a peer; each given function makes the bytes of one answer out of the request."""
    listener = socket.socket(socket.AF_UNIX)
    threads = []

    def start(*answers: Callable[[dict], bytes]) -> str:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()

        def run() -> None:
            peer, _ = listener.accept()
            with peer, peer.makefile("rb") as lines:
                for answer in answers:
                    if data := answer(json.loads(lines.readline())):
                        peer.sendall(data)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return str(tmp_path)

    yield start
    for thread in threads:
        thread.join(10)
    listener.close()


def result(value):
    return lambda request: json.dumps({"id": request["id"], "result": value}).encode() + b"\n"


def error(**fields):
    return lambda request: json.dumps({"id": request["id"], "error": fields}).encode() + b"\n"


def test_call(serve):
    seen = []

    def answer(request):
        seen.append(request)
        return result([1, 2])(request)

    with DatapathClient(serve(result(HELLO), answer)) as client:
        assert client.call("cbd.host.list", transport="pool0") == [1, 2]
    assert seen == [{"id": 2, "method": "cbd.host.list", "params": {"transport": "pool0"}}]


def test_an_error_keeps_object_message_and_hint(serve):
    folder = serve(result(HELLO), error(code="busy", object="backend 0", message="is used by blkdev 1", hint="stop it first"))
    with (
        DatapathClient(folder) as client,
        pytest.raises(LabError, match="backend 0: is used by blkdev 1; stop it first") as caught,
    ):
        client.call("cbd.backend.stop")
    assert caught.value.observed["code"] == "busy"


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: b"no json\n",
        lambda request: b"[]\n",
        lambda request: b"",
        lambda request: b'{"id": 2, "result": 1',
        lambda request: b'{"id": 7, "result": 1}\n',
        lambda request: b'{"id": 2}\n',
        lambda request: b'{"id": 2, "result": 1, "error": {}}\n',
        lambda request: b"\xff\xfe\n",
    ],
)
def test_an_answer_that_is_none(serve, answer):
    with DatapathClient(serve(result(HELLO), answer)) as client, pytest.raises(LabError, match="got an answer that is none"):
        client.call("status")


def test_an_error_without_words(serve):
    with (
        DatapathClient(serve(result(HELLO), error())) as client,
        pytest.raises(LabError, match="status: failed without a message"),
    ):
        client.call("status")


def test_another_protocol(serve):
    with pytest.raises(LabError, match="speaks protocol 2, not 1"):
        DatapathClient(serve(result({**HELLO, "protocol": 2})))


def test_a_silent_peer(serve):
    hold = threading.Event()

    def late(request):
        hold.wait(10)
        return b""

    with DatapathClient(serve(result(HELLO), late), timeout=0.2) as client:
        with pytest.raises(LabError, match="got no answer"):
            client.call("status")
        hold.set()


def test_a_daemon_that_stands_still(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(datapath_client, "HELLO_S", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()  # the kernel accepts, nobody answers
        with pytest.raises(LabError, match=r"hello got no answer within 0\.2 s.* stands still"):
            DatapathClient(str(tmp_path))


def test_nobody_listens(tmp_path: Path):
    with pytest.raises(DaemonAbsent, match=r"nobody listens on .*control\.sock; install and start the daemon.* unless the lab"):
        DatapathClient(str(tmp_path))


def test_what_the_daemon_waits_for_is_shown_until_it_answers(tmp_path, monkeypatch):
    """A daemon that answers the second client, who only says hello, before the first one."""
    shown: list[str] = []
    told = threading.Event()

    def show(words: str) -> None:
        shown.append(words)
        told.set()

    monkeypatch.setattr(datapath_client, "WORD_S", 0.05)
    monkeypatch.setattr(datapath_client, "progress", show)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "control.sock"))
    listener.listen()

    def run() -> None:
        first, _ = listener.accept()
        with first, first.makefile("rb") as lines:
            first.sendall(result(HELLO)(json.loads(lines.readline())))
            asked = json.loads(lines.readline())
            second, _ = listener.accept()
            with second, second.makefile("rb") as hello:
                second.sendall(result({**HELLO, "waits_for": ["host node1 to be silent"]})(json.loads(hello.readline())))
            assert told.wait(10)
            first.sendall(result("done")(asked))

    thread = threading.Thread(target=run)
    thread.start()
    with DatapathClient(str(tmp_path)) as client:
        assert client.call("cbd.backend.recover") == "done"
    thread.join(10)
    listener.close()
    assert shown[0] == "waiting for host node1 to be silent"
