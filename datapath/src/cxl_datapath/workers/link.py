# SPDX-License-Identifier: GPL-3.0-or-later
"""The line between a worker and its supervisor.

stdin carries JSON lines down: first the configuration, then commands (`{"command": "stop"}`). stdout carries JSON lines up:
`{"event": "bell"}`, `{"event": "ready" | "info", "info": {}}`, `{"event": "busy" | "failed", "error": {}}`.
stderr is for people. The end of stdin means that the supervisor is gone: the worker stops.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from enum import Enum
from typing import Any

from ..errors import Code, DatapathError

LINE_MAX = 1 << 20


class Command(Enum):
    STOP = "stop"  # stop if nobody uses you, else say busy and go on
    QUIT = "quit"  # SIGTERM: stop, and take no more than a moment for it
    ANSWER = "answer"  # what was asked for is in `Link.answer`
    ABANDONED = "abandoned"  # the supervisor is gone: end now, and leave to its successor what can be left


class Link:
    """A worker's end. Takes over stdout, so that nothing else can write into the protocol."""

    def __init__(self) -> None:
        self._events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
        os.dup2(2, 1)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._ended: Command | None = None
        self._input = b""
        self.answer: dict[str, Any] = {}
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, *_: object) -> None:
        self._ended = self._ended or Command.QUIT
        os.write(self._wake_write, b"q")

    def config(self) -> dict[str, Any]:
        """The first line."""
        line = self._line(None)
        raw = json.loads(line) if line else None
        if not isinstance(raw, dict):
            raise DatapathError(
                Code.INVALID, "worker", "no configuration on standard input", "workers are started by cxl-datapathd"
            )
        return raw

    def emit(self, event: str, **fields: Any) -> None:
        try:
            print(json.dumps({"event": event, **fields}), file=self._events, flush=True)
        except BrokenPipeError:
            self._ended = Command.ABANDONED

    def wait(self, seconds: float) -> Command | None:
        """Sleeps at most `seconds`; returns early with a command."""
        line = self._line(time.monotonic() + seconds)
        if self._ended is not None:
            return self._ended
        if not line:
            return None
        match _message(line):
            case {"command": "stop"}:
                return Command.STOP
            case {"answer": dict(answer)}:
                self.answer = answer
                return Command.ANSWER
        print(f"worker: unknown command {line!r:.200}", file=sys.stderr)
        return None

    def _line(self, deadline: float | None) -> bytes:
        while self._ended is None:
            line, newline, rest = self._input.partition(b"\n")
            if newline:
                self._input = rest
                return line
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([0, self._wake_read], [], [], left)
            if 0 in ready:
                data = os.read(0, 65536)
                self._input += data
                if not data or len(self._input) > LINE_MAX:
                    self._ended = Command.ABANDONED
            elif not ready and deadline is not None and time.monotonic() >= deadline:
                break
        return b""


def _message(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
