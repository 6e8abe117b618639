# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd's JSON gateway (etcd v3 API over HTTP POST), with the standard library. What it answers is not trusted."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from ..errors import Code, DatapathError

PORT = 2379
_ANSWER_MAX = 1 << 16  # bytes; the answers that are used here have some hundred
_HINT = "check that etcd serves clients there, or start the daemon without --etcd"


class Gateway:
    """One etcd at `http[s]://host[:port]`. Raises `invalid` for anything else."""

    def __init__(self, url: str) -> None:
        self.what = f"etcd {url:.200}"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise self._invalid(str(error)) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not (url.isascii() and url.isprintable()):
            raise self._invalid("is no URL of an etcd")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
            raise self._invalid("has more than a host and a port")
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, PORT if port is None else port

    def call(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to one request. Raises `timeout`; `failed` when etcd is away or refuses; `corrupt` for nonsense."""
        status, raw = self._post(path, json.dumps(body).encode(), max(0.01, timeout_s))
        answer = decode(raw)
        if status != http.client.OK:
            said = answer.get("message") or answer.get("error") if answer else None
            raise DatapathError(Code.FAILED, self.what, f"refused {path} with status {status}: {said!r:.200}", _HINT)
        if answer is None:
            raise self.nonsense(path, raw)
        return answer

    def nonsense(self, path: str, answer: object) -> DatapathError:
        hint = "is this the client port of an etcd (v3 API), or a proxy in between?"
        return DatapathError(Code.CORRUPT, self.what, f"answered {path} with {answer!r:.100}", hint)

    def _post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        connection = self._kind(self._host, self._port, timeout=timeout_s)
        late = threading.Event()
        # The timeout of a socket is for each piece of an answer; this is the one for all of it.
        watchdog = threading.Timer(timeout_s, _cut, [connection, late])
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            raw = response.read(_ANSWER_MAX + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise DatapathError(Code.TIMEOUT, self.what, f"did not answer {path} for {timeout_s:.1f} s", _HINT) from None
            raise DatapathError(
                Code.FAILED, self.what, f"cannot be asked: {error or type(error).__name__!s:.200}", _HINT
            ) from None
        finally:
            watchdog.cancel()
            connection.close()
        if late.is_set():
            raise DatapathError(Code.TIMEOUT, self.what, f"did not end its answer to {path} for {timeout_s:.1f} s", _HINT)
        return response.status, raw

    def _invalid(self, why: str) -> DatapathError:
        return DatapathError(Code.INVALID, self.what, why, "write http://host:2379 or https://host:2379")


def _cut(connection: http.client.HTTPConnection, late: threading.Event) -> None:
    late.set()
    if connection.sock is not None:
        with suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def decode(raw: bytes) -> dict[str, Any] | None:
    """A JSON object of a sensible size, else None. Pure."""
    if len(raw) > _ANSWER_MAX:
        return None
    try:
        answer = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None
