# SPDX-License-Identifier: GPL-3.0-or-later
"""A daemon for tests of the modules: the real control socket, answers from a test. What the real daemon says is in
test_cbd_modules.py and test_cbd_recovery.py."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Refused(Exception):
    """What the daemon does not do: the fields of its error."""

    def __init__(self, **fields: str) -> None:
        super().__init__(fields)
        self.fields = fields


class FakeDaemon:
    """Answers with ``methods[name](**params)``; keeps the calls that are not mere questions in ``did``.

    :param folder: what a module gets as runtime_dir; short, for the path of a socket has 107 bytes.
    """

    def __init__(self, folder: Path, methods: dict[str, Callable[..., Any]]) -> None:
        self.methods = {"hello": lambda: {"protocol": 1}, **methods}
        self.did: list[tuple[str, dict[str, Any]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "control.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                for line in lines:
                    peer.sendall(json.dumps(self._answer(json.loads(line))).encode() + b"\n")

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        name, params = request["method"], request["params"]
        if name not in ("hello", "status") and not name.endswith((".list", ".probe")):
            self.did.append((name, params))
        try:
            return {"id": request["id"], "result": self.methods[name](**params)}
        except Refused as refused:
            return {"id": request["id"], "error": refused.fields}
