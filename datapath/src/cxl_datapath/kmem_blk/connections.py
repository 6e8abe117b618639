# SPDX-License-Identifier: GPL-3.0-or-later
"""The clients of a pool socket: who is connected, what each has, and the listener that lets them in."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import Code, DatapathError
from ..mapping import Mapping
from ..peers import Peer, may_talk, peer_of
from .leases import Lease
from .pages import VolumeBackend
from .wire import send

CLIENTS_MAX = 64
EVENTS_MAX = 1024  # kept for a client that an answer is just being sent to
RETRY_S = 0.1  # before somebody else is let in after that has failed


@dataclass(eq=False)
class Connection:
    """One client and what it has."""

    peer: Peer
    link: socket.socket
    leases: list[Lease] = field(default_factory=list)
    attached: list[tuple[str, VolumeBackend, Mapping]] = field(default_factory=list)
    reserved: list[tuple[str, bool]] = field(default_factory=list)  # volumes, and whether alone
    received: list[int] = field(default_factory=list)  # descriptors of the request in hand
    _sending: threading.Lock = field(default_factory=threading.Lock)
    _events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))  # the oldest go first

    @property
    def privileged(self) -> bool:
        """Root and the daemon's own user, who may do more than lease."""
        return may_talk(self.peer.uid, self.peer.gid, None)

    def send(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        with self._sending:
            send(self.link, message, fds)
        self._send_events()

    def notify(self, message: dict[str, Any]) -> None:
        """Tells it without waiting: a client that does not read must not hold up the pool, and loses the event."""
        self._events.append(message)
        self._send_events()

    def _send_events(self) -> None:
        """Whoever is sending meanwhile comes here next, so that no event stays behind."""
        while self._events and self._sending.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError, IndexError):
                    send(self.link, self._events.popleft(), flags=socket.MSG_DONTWAIT)
            finally:
                self._sending.release()


class Connections:
    """Those of now. Threads come and go here at any time."""

    def __init__(self) -> None:
        self._all: set[Connection] = set()
        self._lock = threading.Lock()

    def now(self) -> list[Connection]:
        with self._lock:
            return list(self._all)

    def add(self, connection: Connection) -> None:
        """Raises `busy` when too many are there that may only lease."""
        with self._lock:
            if not connection.privileged and sum(not each.privileged for each in self._all) >= CLIENTS_MAX:
                raise DatapathError(Code.BUSY, "pool socket", f"has {CLIENTS_MAX} clients already", "try again later")
            self._all.add(connection)

    def discard(self, connection: Connection) -> None:
        with self._lock:
            self._all.discard(connection)

    def reserve(self, connection: Connection, volume: str, alone: bool) -> None:
        """For as long as the connection lasts. Raises `busy` when there are others, and either side wants to be alone."""
        with self._lock:
            for other in self._all - {connection}:
                if any(name == volume and (alone or only) for name, only in other.reserved):
                    raise DatapathError(Code.BUSY, volume, f"is in use by process {other.peer.pid}", "stop that one first")
            connection.reserved.append((volume, alone))

    def owner(self, lease: Lease) -> Connection | None:
        return next((each for each in self.now() if lease in each.leases), None)


def accept_all(listener: socket.socket, closing: threading.Event, converse: Callable[[Connection], None]) -> None:
    """Each client gets a thread, until `closing`. That one cannot be let in, for want of descriptors or threads, is no end."""
    while not closing.is_set():
        try:
            link, _ = listener.accept()
            try:
                threading.Thread(target=converse, args=(Connection(peer_of(link), link),), daemon=True).start()
            except BaseException:
                link.close()
                raise
        except (OSError, RuntimeError) as error:
            if closing.wait(RETRY_S):
                return
            print(f"pool socket: a client could not be let in: {error}", file=sys.stderr)
