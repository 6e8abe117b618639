# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the daemon's control socket: one call, one answer."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import Code, DatapathError, from_errno
from .readiness import has_input

TIMEOUT_S = 120.0  # without an answer, and without a word of the daemon what it waits for; leases make some waits long
WORD_S = 2.0  # after so long a person wants to know what is waited for
HELLO_S = 15.0  # the daemon answers this at once, whatever else it does; emulated processors may stand still for seconds
_SYSTEMD = Path("/run/systemd/system")
RUNTIME = Path("/run/cxl-datapath")  # folder of the daemon that systemd runs


class Client:
    """`call` raises the daemon's own `DatapathError`, or one that says why the daemon cannot be asked.

    `on_wait` is told in words what the daemon waits for while there is no answer, when that changes.
    """

    def __init__(self, runtime: Path, on_wait: Callable[[str], None] = lambda _: None) -> None:
        self._runtime, self._on_wait = runtime, on_wait
        self._path = runtime / "control.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(HELLO_S)
        try:
            self._socket.connect(str(self._path))
        except TimeoutError:
            self._socket.close()
            raise _silent(self._path) from None
        except OSError as error:
            self._socket.close()
            if error.errno is None:  # Python's own: the path does not fit into an address
                raise DatapathError(Code.INVALID, str(self._path), str(error), "use a shorter --runtime folder") from None
            hint = "it belongs to root: use sudo" if isinstance(error, PermissionError) else _how_to_start(runtime)
            raise from_errno(error.errno, str(self._path), "reach the daemon", hint) from None
        self._answers = self._socket.makefile("rb")
        self._number = 0
        self._greet()

    def _greet(self) -> None:
        """The kernel accepts for a daemon that stands still: only an answer shows that it does not."""
        try:
            self.hello()
        except BaseException as error:
            self.close()
            if isinstance(error, DatapathError) and error.code == Code.TIMEOUT:
                raise _silent(self._path) from None
            raise
        self._socket.settimeout(TIMEOUT_S)

    def hello(self) -> Any:
        """What the daemon says at once, whatever else it does."""
        return self._ask("hello", {}, lambda: None)

    def call(self, method: str, **params: Any) -> Any:
        return self._ask(method, params, self._await_answer)

    def _ask(self, method: str, params: dict[str, Any], wait: Callable[[], None]) -> Any:
        self._number += 1
        request = {"id": self._number, "method": method, "params": params}
        try:
            # A daemon that refuses this client hangs up at once: what it said is still to be read.
            with contextlib.suppress(BrokenPipeError):
                self._socket.sendall(json.dumps(request).encode() + b"\n")
            wait()
            line = self._answers.readline()
            answer = json.loads(line) if line else {}
        except TimeoutError:
            raise DatapathError(Code.TIMEOUT, method, f"no answer within {TIMEOUT_S:.0f} s", "see the daemon's log") from None
        except (OSError, ValueError) as error:
            raise DatapathError(
                Code.FAILED, str(self._path), f"the conversation broke: {error}", "see the daemon's log"
            ) from None
        if "error" in answer:
            raise DatapathError.from_json(answer["error"])
        if answer.get("id") != self._number or "result" not in answer:
            raise DatapathError(Code.FAILED, str(self._path), "the daemon hung up without an answer", "see its log")
        return answer["result"]

    def _await_answer(self) -> None:
        """Returns when there is something to read. Raises `timeout` when the daemon stands still, TimeoutError when it
        waits for nothing and says nothing all the same."""
        said, deadline = "", time.monotonic() + TIMEOUT_S
        while not has_input(self._socket, WORD_S):
            words = self._waits_for()
            if words:
                deadline = time.monotonic() + TIMEOUT_S
            elif time.monotonic() > deadline:
                raise TimeoutError
            if words not in ("", said):
                self._on_wait(words)
            said = words

    def _waits_for(self) -> str:
        try:
            with Client(self._runtime) as other:
                return "; ".join(map(str, other.hello().get("waits_for", [])))
        except DatapathError as error:
            if error.code == Code.TIMEOUT:
                raise
            return ""  # it has too many clients, or is gone; the latter shows in the conversation itself

    def open(self, method: str, **params: Any) -> tuple[Any, int]:
        """A call that is answered with an open file, which is the caller's then."""
        self._number += 1
        try:
            self._socket.sendall(json.dumps({"id": self._number, "method": method, "params": params}).encode() + b"\n")
            line, fds, _, _ = socket.recv_fds(self._socket, 65536, 1)
            answer = json.loads(line) if line else {}
        except (OSError, ValueError) as error:
            what = f"the conversation broke: {error}"
            raise DatapathError(Code.FAILED, str(self._path), what, "see the daemon's log") from None
        if "error" in answer:
            raise DatapathError.from_json(answer["error"])
        if answer.get("id") != self._number or len(fds) != 1:
            raise DatapathError(Code.FAILED, str(self._path), "the daemon sent no file", "see its log")
        os.set_inheritable(fds[0], False)
        return answer["result"], fds[0]

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _silent(path: Path) -> DatapathError:
    hint = "it stands still or is overloaded: see its log, let it go on (kill -CONT) or restart it"
    return DatapathError(Code.TIMEOUT, str(path), f"the daemon does not answer within {HELLO_S:g} s", hint)


def _how_to_start(runtime: Path) -> str:
    """What works on this machine: the service is there for one folder only, and only under systemd."""
    if runtime == RUNTIME and _SYSTEMD.is_dir():
        return "start it: systemctl start cxl-datapathd; what it said: journalctl -u cxl-datapathd"
    log = runtime.with_name(f"{runtime.name}.log")  # as a lab without an init system keeps it
    said = f"; what it said: {log}" if log.exists() else ""
    return f"is --runtime right? start it, in a lab: ansible-playbook -i INVENTORY playbooks/datapath.yml{said}"
