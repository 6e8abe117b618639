# SPDX-License-Identifier: GPL-3.0-or-later
"""The way into cxl-datapathd: its control socket, one JSON object per line in each direction."""

from __future__ import annotations

import json
import select
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import LabError
from .progress import progress

RUNTIME_DIR = "/run/cxl-datapath"
PROTOCOL = 1
_SOCKET = "control.sock"
_ANSWER_MAX = 16 << 20
#: Seconds for the first answer, which a daemon gives at once; emulated processors may stand still for some.
HELLO_S = 15.0
#: After so many seconds without an answer a person wants to know what the daemon waits for.
WORD_S = 2.0


class DaemonAbsent(LabError):
    """No daemon listens on this host."""


class DatapathClient:
    """A connection to the daemon. Use it in a ``with`` statement.

    :param runtime_dir: the folder that holds the daemon's control socket.
    :param timeout: seconds that one call may take.
    :raises DaemonAbsent: when nobody listens there.
    """

    def __init__(self, runtime_dir: str = RUNTIME_DIR, timeout: float = 120) -> None:
        self._runtime_dir = runtime_dir
        path = Path(runtime_dir) / _SOCKET
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(min(timeout, HELLO_S))
        try:
            self._socket.connect(str(path))
        except PermissionError as refused:
            self._socket.close()
            raise LabError("cxl-datapathd", f"this user may not open {path}", "run as root") from refused
        except OSError as refused:
            self._socket.close()
            raise DaemonAbsent(
                "cxl-datapathd",
                f"nobody listens on {path}",
                "install and start the daemon on this host, unless the lab is just being removed: "
                "ansible-playbook -i INVENTORY playbooks/datapath.yml",
            ) from refused
        self._lines = self._socket.makefile("rb")
        self._calls = 0
        self._check_protocol()
        self._socket.settimeout(timeout)

    def call(self, method: str, **params: Any) -> Any:
        """The result of a method.

        :raises LabError: with the daemon's own object, message and hint; or when it cannot be understood.
        """
        self._calls += 1
        request = {"id": self._calls, "method": method, "params": params}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            self._show_wait()
            line = self._lines.readline(_ANSWER_MAX)
        except TimeoutError as silent:
            problem = f"{method} got no answer within {self._socket.gettimeout():g} s"
            step = "look whether the daemon stands still, and at its log; restart it if it does"
            raise LabError("cxl-datapathd", problem, step) from silent
        except OSError as broken:
            raise LabError("cxl-datapathd", f"{method} got no answer: {broken}", "look at the log of the daemon") from broken
        return self._result(method, line)

    def set_timeout(self, seconds: float) -> None:
        """How long each call from now on may take."""
        self._socket.settimeout(seconds)

    def _show_wait(self) -> None:
        """Returns when there is something to read; until then the progress display says what the daemon waits for.

        :raises TimeoutError: when a call may take no longer.
        """
        deadline = time.monotonic() + float(self._socket.gettimeout() or 0)
        while not select.select([self._socket], [], [], min(WORD_S, max(0.0, deadline - time.monotonic())))[0]:
            if time.monotonic() >= deadline:
                raise TimeoutError
            try:
                with DatapathClient(self._runtime_dir, WORD_S) as other:
                    words = "; ".join(map(str, other.waits_for))
            except LabError:
                continue  # it stands still, or is gone: this conversation will tell
            if words:
                progress(f"waiting for {words}")

    def _check_protocol(self) -> None:
        try:
            hello = self.call("hello")
        except LabError:
            self.close()
            raise
        spoken = hello.get("protocol") if isinstance(hello, dict) else None
        if spoken != PROTOCOL:
            self.close()
            step = "bring the daemon and this collection to versions that belong together"
            raise LabError("cxl-datapathd", f"speaks protocol {spoken!r}, not {PROTOCOL}", step, observed=hello)
        #: In words what the daemon waited for when it was greeted.
        self.waits_for: list[object] = hello.get("waits_for") or []

    def _result(self, method: str, line: bytes) -> Any:
        try:
            answer = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or answer.get("id") != self._calls or len({"result", "error"} & answer.keys()) != 1:
            raise LabError(
                "cxl-datapathd", f"{method} got an answer that is none: {line[:200]!r}", "look at the log of the daemon"
            )
        if "result" in answer:
            return answer["result"]
        error = answer["error"] if isinstance(answer["error"], dict) else {}
        text = {key: str(error.get(key) or "") for key in ("object", "message", "hint")}
        raise LabError(text["object"] or method, text["message"] or "failed without a message", text["hint"], observed=error)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> DatapathClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
