# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the daemon's control socket: one call, one answer."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import Code, DatapathError, from_errno

TIMEOUT_S = 120.0  # methods return when a thing runs or failed; the slowest wait inside the daemon is far below


class Client:
    """`call` raises the daemon's own `DatapathError`, or one that says why the daemon cannot be asked."""

    def __init__(self, runtime: Path) -> None:
        self._path = runtime / "control.sock"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(self._path))
        except OSError as error:
            self._socket.close()
            hint = "is cxl-datapathd running? systemctl status cxl-datapathd"
            if error.errno is None:  # Python's own: the path does not fit into an address
                raise DatapathError(Code.INVALID, str(self._path), str(error), "use a shorter --runtime folder") from None
            raise from_errno(error.errno, str(self._path), "reach the daemon", hint) from None
        self._answers = self._socket.makefile("rb")
        self._number = 0

    def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        request = {"id": self._number, "method": method, "params": params}
        try:
            # A daemon that refuses this client hangs up at once: what it said is still to be read.
            with contextlib.suppress(BrokenPipeError):
                self._socket.sendall(json.dumps(request).encode() + b"\n")
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

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
