# SPDX-License-Identifier: GPL-3.0-or-later
"""The line from the master to the worker of a LUN: one JSON object per packet, with descriptors; each is answered by one.

Beside the supervisor's pipes, because those cannot carry descriptors, and because a service waits for its answer here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from .refusal import Gone, Refusal

PACKET_MAX = 1 << 17  # bytes; the longest holds a table of all chunks


class Channel:
    """The master's end. `on_gone` is called once, when the worker's end is closed: it died, or is ending."""

    def __init__(self, on_gone: Callable[[Channel], None]) -> None:
        self._on_gone = on_gone
        self._socket, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._number = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.gone = False
        asyncio.get_running_loop().add_reader(self._socket, self._read)

    def hand_over(self) -> int:
        """The worker's end, once; it is the caller's to close."""
        return self._theirs.detach()

    async def call(self, op: str, descriptors: Sequence[int] = (), **fields: Any) -> dict[str, Any]:
        """The worker's answer. Raises `Refusal` with its errno, `Gone` when it is gone."""
        if self.gone:
            raise Gone("the data path of the LUN is not running")
        self._number += 1
        packet = json.dumps({"id": self._number, "op": op, **fields}, separators=(",", ":")).encode()
        if len(packet) > PACKET_MAX:
            raise Refusal(errno.E2BIG, f"{op}: {len(packet)} bytes are too many for one order to the data path")
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = answer
        try:
            socket.send_fds(self._socket, [packet], list(descriptors))
        except OSError as error:
            del self._waiting[self._number]
            raise Gone(f"the data path of the LUN cannot be reached: {error.strerror}") from None
        found = await answer
        if found.get("errno"):
            raise Refusal(int(found["errno"]), str(found.get("text", "")))
        return found

    def close(self) -> None:
        if self.gone:
            return
        self.gone = True
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._theirs.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(Gone("the data path of the LUN has ended"))
        self._waiting.clear()
        self._on_gone(self)

    def _read(self) -> None:
        try:
            packet = self._socket.recv(PACKET_MAX)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self.close()
            return
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            answer = json.loads(packet)
            waiting = self._waiting.pop(answer["id"])
            if not waiting.done():
                waiting.set_result(answer)
