# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is said to the control socket: a real daemon, in this process, gives each line one documented answer and lives on."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from strategies import as_bytes, json_values, nearly, numbers, words

from cxl_datapath.errors import Code
from cxl_datapath.methods import METHODS
from cxl_datapath.server import ControlServer
from cxl_datapath.service import Datapath
from cxl_datapath.session import Settings

MEMORY = 16 << 20
PATIENCE_S = 60.0


class Daemon:
    """A daemon in a thread, with a registered transport "pool0" and nothing in it."""

    def __init__(self, folder: Path) -> None:
        self.memory = folder / "memory"
        self.memory.touch()
        os.truncate(self.memory, MEMORY)
        (folder / "state").mkdir()
        self._path = folder / "control.sock"
        self._settings = Settings(folder, folder / "state", "node1")
        self._ready, self._ended = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()], daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        for method, params in (("format", {"name": "pool0", "lease_ms": 1000}), ("register", {})):
            request = {"id": 1, "method": f"cbd.transport.{method}", "params": {"memory": str(self.memory), **params}}
            (answer,) = self.talk(as_bytes(request) + b"\n")
            assert "result" in answer, answer

    async def _serve(self) -> None:
        datapath = Datapath(self._settings)
        server = ControlServer(datapath, self._path, None)
        datapath.start()
        await server.start()
        self._ready.set()
        await self._ended.wait()
        await server.stop()
        await datapath.stop()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._loop.close()

    def talk(self, data: bytes) -> list[dict[str, Any]]:
        """Sends bytes, closes our direction, returns every answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(PATIENCE_S)
            peer.connect(str(self._path))
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            with peer.makefile("rb") as answers:
                return [json.loads(line) for line in answers]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="cxlf-") as folder:
        made = Daemon(Path(folder))
        yield made
        made.stop()


def check(answer: dict[str, Any]) -> None:
    assert len(answer) == 2
    if "result" not in answer:
        error = answer["error"]
        assert set(error) == {"code", "message", "object", "hint"}
        assert error["code"] in {str(code) for code in Code}
        assert "defect" not in error["hint"], error


def lives(daemon: Daemon) -> None:
    (answer,) = daemon.talk(b'{"id": 7, "method": "cbd.transport.list"}\n')
    assert [row["name"] for row in answer["result"]] == ["pool0"]


# Nothing that exists may be named: a path of the machine could become a backend, a memory could be formatted.
PARAMS: dict[str, st.SearchStrategy[Any]] = {
    "transport": st.just("pool0"),
    "memory": st.sampled_from(["/missing/memory", "/", "/dev/null", "serial:0xdead", "serial:", "/dev/dax9.9"]),
    "path": st.sampled_from(["/missing/disk", "/", "/dev/null", "relative", "/" + "x" * 300]),
    "name": st.sampled_from(["pool0", "cbd0", "control", "../x"]),
    **dict.fromkeys(["id", "backend"], st.integers(0, 3) | st.sampled_from([15, 16, 1023])),
    **dict.fromkeys(["queues", "io_timeout"], st.integers(1, 16)),
    **dict.fromkeys(["force", "read_only", "shared", "data_crc"], st.booleans()),
    "frontend": st.sampled_from(["auto", "ublk", "nbdkit", "none"]),
}
MUTE = {"cbd.transport.unregister"}  # what would take the transport away


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request with fields of the right names, most of them with values that may be right."""
    name = draw(st.sampled_from(sorted(set(METHODS) - MUTE)))
    fields = METHODS[name].fields
    good = {field: draw(PARAMS.get(field, numbers)) for field in fields if draw(st.integers(0, 9))}
    odd = draw(
        st.dictionaries(st.sampled_from(sorted(fields)) if fields else words, st.one_of(numbers, words, json_values), max_size=1)
    )
    odd = {key: value for key, value in odd.items() if key not in ("memory", "path")}
    return {"id": draw(st.integers(0, 9)), "method": name, "params": good | odd}


quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(requests())
def test_requests_with_any_values(daemon: Daemon, request: dict[str, Any]) -> None:
    (answer,) = daemon.talk(as_bytes(request) + b"\n")
    check(answer)
    assert answer["id"] == request["id"]
    lives(daemon)


HELLO = {"id": 1, "method": "hello", "params": {}}


@quick
@given(
    st.lists(
        st.one_of(json_values, nearly(HELLO)).map(as_bytes) | st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")),
        max_size=4,
    )
)
@example([b'{"id": NaN, "method": "hello"}'])
@example([b'{"id": "\\ud800", "method": "hello", "\\ud800": 1}'])
@example([b'{"id": 1, "method": "hello", "params": {"\\ud800": 1}}'])
@example([b"1" * 5000])
@example([b'{"id": 1e999, "method": "hello"}'])
@example([b'{"id": ' + b"9" * 4300 + b', "method": "hello"}'])
def test_lines_of_any_content(daemon: Daemon, lines: list[bytes]) -> None:
    answers = daemon.talk(b"".join(line + b"\n" for line in lines))
    assert len(answers) == len(lines)
    for answer in answers:
        check(answer)
    lives(daemon)
