# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool socket's server: volumes for the workers of this host, leases for local clients, changes for the daemon.

Each packet is a request (`{"op", ...}`) with one answer (`{"result"}` or `{"error"}`); `{"event": "recall", ...}` comes unasked.
A connection owns what it got: when it ends, its channels stop and its leases return.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core import BackendConf
from ..errors import Code, DatapathError
from ..idle import idle_conf
from ..memory import Memory, check_spec
from ..peers import may_talk
from ..schema import Field, boolean, choice, integer, parse
from .connections import Connection, Connections, accept_all
from .layout import PAGE
from .leases import Lease, Leases
from .pages import VolumeBackend
from .pool import Pool
from .swap import hold_memory, never_wait_for_swap
from .wire import QUEUES_MAX, Channels, receive

_PAGES = integer(0, 1 << 40)
_SPEC = Field(lambda _, value: check_spec(value))
_MEMORY = Field(lambda _, value: Memory.from_json(value))


class PoolServer:
    """Serves a pool on a unix socket until `close`. `group`: the gid that may lease beside root and the daemon's own user."""

    def __init__(self, pool: Pool, leases: Leases, path: Path, *, group: int | None, recall_s: float, event_fd: int) -> None:
        self._pool, self._leases, self._path, self._group = pool, leases, path, group
        self._recall_s, self._event_fd = recall_s, event_fd
        self._lock = threading.RLock()
        self._connections = Connections()
        self._closing = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def start(self) -> None:
        self._path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(self._path))
        except OSError as error:
            raise DatapathError(Code.FAILED, str(self._path), f"cannot listen: {error}", "is the path too long?") from None
        finally:
            os.umask(before)
        if self._group is not None:
            os.chown(self._path, -1, self._group)
            self._path.chmod(0o660)
        self._listener.listen()
        threading.Thread(target=accept_all, args=(self._listener, self._closing, self._converse), daemon=True).start()
        threading.Thread(target=self._recall, daemon=True).start()

    def reap(self) -> None:
        """One look for pages of devdax that nobody maps any more."""
        with self._lock:
            self._leases.reap()

    def close(self) -> None:
        """Ends every connection and stops what they are attached to."""
        self._closing.set()
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for connection in self._connections.now():
            self._drop(connection)
        with self._lock:  # one that was just ending by itself has ended
            pass

    def users(self) -> list[str]:
        """Who is attached or has a lease, for messages."""
        with self._lock:
            attached = [f"{name} of process {c.peer.pid}" for c in self._connections.now() for name, *_ in c.attached]
            return sorted(attached) + [f"lease {each.id} of process {each.pid}" for each in self._leases.held]

    # ---- connections -------------------------------------------------------------------------------------------------

    def _converse(self, connection: Connection) -> None:
        try:
            with contextlib.suppress(OSError):
                try:
                    self._let_in(connection)
                except DatapathError as error:
                    connection.send(_error(error))
                else:
                    while self._answer(connection):
                        pass
        finally:
            self._drop(connection)

    def _let_in(self, connection: Connection) -> None:
        peer = connection.peer
        if not may_talk(peer.uid, peer.gid, self._group):
            print(f"pool socket: refused uid {peer.uid}", file=sys.stderr)
            raise DatapathError(Code.DENIED, "pool socket", f"uid {peer.uid} may not use it")
        self._connections.add(connection)

    def _answer(self, connection: Connection) -> bool:
        """Whether there may be another request."""
        fds: list[int] = []
        try:
            packet = receive(connection.link)
            if packet is None:
                return False
            request, connection.received = packet
            try:
                result, fds = self._perform(connection, request)
            finally:
                for fd in connection.received:
                    os.close(fd)
            connection.send({"result": result}, fds)
        except DatapathError as error:
            connection.send(_error(error))
        return True

    def _perform(self, connection: Connection, request: dict[str, Any]) -> tuple[Any, list[int]]:
        name = str(request.pop("op", ""))
        if name not in _OPS:
            raise DatapathError(Code.INVALID, "packet", f"there is no op {name!r:.40}", f"ops: {', '.join(_OPS)}")
        run, fields, privileged = _OPS[name]
        if privileged and not connection.privileged:
            raise DatapathError(Code.DENIED, name, f"uid {connection.peer.uid} may only lease", "run as root")
        checked = parse(name, fields, request)
        with self._lock:
            if self._closing.is_set():  # what it would get now nobody would take back
                raise DatapathError(Code.NOT_READY, f"pool {self._pool.name}", "is being stopped")
            try:
                return run(self, connection, checked)
            except DatapathError:
                raise
            except (
                Exception
            ) as error:  # a fault of ours must not leave the client without an answer, and its leases without an end
                if not isinstance(error, OSError):
                    traceback.print_exc()
                raise DatapathError(Code.FAILED, name, str(error) or type(error).__name__) from None

    def _drop(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
            for _, backend, mapping in connection.attached:
                backend.close()
                mapping.close()
            for lease in connection.leases:
                self._leases.release(lease)
            connection.attached, connection.leases = [], []
        with contextlib.suppress(OSError):
            connection.link.shutdown(socket.SHUT_RDWR)
        connection.link.close()

    # ---- operations --------------------------------------------------------------------------------------------------

    def status(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        self._leases.reap()
        held = [lease.to_json() for lease in self._leases.held]
        attached = [{"pid": c.peer.pid, "volume": name} for c in self._connections.now() for name, *_ in c.attached]
        return self._pool.to_json() | {"leases": held, "lease_limit": self._leases.limit, "attached": attached}, []

    def attach(self, connection: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        volume = self._pool.blocks if params["volume"] == "blocks" else self._pool.swap
        if volume is None:
            raise DatapathError(Code.NOT_FOUND, f"swap of pool {self._pool.name}", "there is none", "make it first")
        channels = Channels(params["queues"], params["epoch"])
        if len(connection.received) != 1 or os.fstat(connection.received[0]).st_size < channels.size:
            raise DatapathError(Code.INVALID, "attach", f"needs the descriptor of a file of {channels.size} bytes")
        self._connections.reserve(connection, params["volume"], params["alone"])
        mapping = channels.map(f"/proc/self/fd/{connection.received[0]}")
        capacity = volume.blocks * PAGE
        if params["volume"] == "swap":
            never_wait_for_swap()
        backend = VolumeBackend(mapping.mem, BackendConf(-1, 0, 0, PAGE, capacity, idle=idle_conf()), volume)
        connection.attached.append((params["volume"], backend, mapping))
        for conf in channels.confs():
            backend.add(conf)
        if params["volume"] == "swap":
            hold_memory()
        return {"capacity": capacity, "block_size": PAGE}, []

    def lease(self, connection: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        lease = self._leases.grant(connection.peer.pid, params["pages"])
        connection.leases.append(lease)
        body = {"id": lease.id, "pages": len(lease.pages), "path": lease.path, "extents": lease.extents}
        return body, [lease.fd] if lease.fd >= 0 else []

    def release(self, connection: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        lease = next((each for each in connection.leases if each.id == params["id"]), None)
        if lease is None:
            raise DatapathError(
                Code.NOT_FOUND, f"lease {params['id']}", "is not held by this client", "it may have been recalled"
            )
        connection.leases.remove(lease)
        self._leases.release(lease)
        return {}, []

    def swap_make(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        self._pool.make_swap(params["blocks"])
        return {}, []

    def swap_clear(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        self._pool.clear_swap()
        return {}, []

    def swap_recall(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        """Asks its device for every page of it; `swap_clear` follows when they fit into memory."""
        self._tell_swap()
        return {}, []

    def swap_drop(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        if any(name == "swap" for each in self._connections.now() for name, *_ in each.attached):
            raise DatapathError(Code.BUSY, f"swap of pool {self._pool.name}", "is attached", "swapoff and stop its device first")
        self._pool.drop_swap()
        return {}, []

    def grow(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        self._pool.grow(params["memory"], params["force"])
        if self._pool.swap is not None:
            hold_memory()
        return self._pool.to_json(), []

    def shrink(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        self._pool.shrink(params["memory"], params["move"])
        return self._pool.to_json(), []

    def set(self, _: Connection, params: dict[str, Any]) -> tuple[Any, list[int]]:
        self._pool.pages.set_reserve(params["reserve"])
        self._leases.limit = params["lease_limit"]
        return {}, []

    # ---- recall ------------------------------------------------------------------------------------------------------

    def _recall(self) -> None:
        """A write of blocks waits for pages: leases are asked back, the latest first, then the swap volume."""
        while not self._closing.is_set():
            os.read(self._event_fd, 8)
            try:
                self._recall_once()
            except Exception:  # the next write that waits for pages must be heard
                traceback.print_exc()

    def _recall_once(self) -> None:
        with self._lock:
            wanted = self._pool.pages.counts()["wanted"]
            chosen = self._leases.to_recall(wanted)
            for lease in chosen:
                self._ask_back(lease)
            if sum(len(lease.pages) for lease in chosen) < wanted:
                self._tell_swap()
        self._closing.wait(self._recall_s)
        with self._lock:
            for lease in chosen:
                self._revoke(lease)
            self._leases.reap()

    def _ask_back(self, lease: Lease) -> None:
        lease.recalled = True
        if owner := self._connections.owner(lease):
            owner.notify({"event": "recall", "lease": lease.id, "pages": len(lease.pages)})

    def _revoke(self, lease: Lease) -> None:
        """What can be taken is taken; ranges of a devdax device cannot."""
        owner = self._connections.owner(lease)
        if owner is not None and lease.fd >= 0:
            owner.leases.remove(lease)
            self._leases.release(lease)
            print(f"lease {lease.id} of process {lease.pid} was not given back: taken", file=sys.stderr)

    def _tell_swap(self) -> None:
        for connection in self._connections.now():
            if any(name == "swap" for name, *_ in connection.attached):
                connection.notify({"event": "recall", "volume": "swap"})


def _error(error: DatapathError) -> dict[str, Any]:
    return {"error": error.to_json()}


_Op = Callable[[PoolServer, Connection, dict[str, Any]], tuple[Any, list[int]]]
# name -> what to do, its fields, whether it is for root and the daemon only
_OPS: dict[str, tuple[_Op, dict[str, Field], bool]] = {
    "status": (PoolServer.status, {}, False),
    "lease": (PoolServer.lease, {"pages": Field(integer(1, 1 << 32))}, False),
    "release": (PoolServer.release, {"id": Field(_PAGES)}, False),
    "attach": (
        PoolServer.attach,
        {
            "volume": Field(choice(("blocks", "swap"))),
            "queues": Field(integer(1, QUEUES_MAX)),
            "epoch": Field(integer(1, (1 << 32) - 1)),
            "alone": Field(boolean, False),
        },
        True,
    ),
    "swap_make": (PoolServer.swap_make, {"blocks": Field(integer(16, 1 << 40))}, True),
    "swap_clear": (PoolServer.swap_clear, {}, True),
    "swap_recall": (PoolServer.swap_recall, {}, True),
    "swap_drop": (PoolServer.swap_drop, {}, True),
    "grow": (PoolServer.grow, {"memory": _MEMORY, "force": Field(boolean, False)}, True),
    "shrink": (PoolServer.shrink, {"memory": _SPEC, "move": Field(boolean, False)}, True),
    "set": (PoolServer.set, {"reserve": Field(_PAGES), "lease_limit": Field(_PAGES)}, True),
}
