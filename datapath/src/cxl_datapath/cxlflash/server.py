# SPDX-License-Identifier: GPL-3.0-or-later
"""The service socket: a packet in, a packet and perhaps descriptors out, one service of a connection at a time.

Who sends is what the kernel says of each packet (SCM_CREDENTIALS): a connection can be inherited by a child.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
import struct
from pathlib import Path

from ..errors import from_errno
from ..peers import remove_own
from .master import Luns
from .process import look_up
from .refusal import Refusal
from .services import serve
from .wire import REQUEST, Answer

CLIENTS_MAX = 2048
CLIENTS_OF_A_USER = 1024  # of all but root, so that nobody can keep the others out
_BACKLOG = 128
_UCRED = struct.Struct("iII")

log = logging.getLogger(__name__)


class LunServer:
    """Listens on `<runtime>/lun.sock`; `group` may use it, too."""

    def __init__(self, luns: Luns, path: Path, group: int | None) -> None:
        self._luns = luns
        self._path = path
        self._group = group
        self._listener: socket.socket | None = None
        self._made: os.stat_result | None = None  # of the socket
        self._clients: dict[socket.socket, int] = {}  # -> uid
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        _raise_descriptor_limit()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        before = os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            self._made = self._path.stat()
            if self._group is not None:
                os.chown(self._path, -1, self._group)
                self._path.chmod(0o660)
        except OSError as error:
            listener.close()
            raise from_errno(error.errno or errno.EINVAL, str(self._path), "listen there") from None
        finally:
            os.umask(before)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def stop(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in list(self._clients):
            self._hang_up(client)
        remove_own(self._path, self._made)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        _, uid, _ = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        others = sum(1 for each in self._clients.values() if each == uid)
        if len(self._clients) >= CLIENTS_MAX or (uid and others >= CLIENTS_OF_A_USER):
            log.warning("service socket: uid %d has %d connections: refused another", uid, others)
            client.close()
            return
        self._clients[client] = uid
        asyncio.get_running_loop().add_reader(client, self._readable, client)

    def _hang_up(self, client: socket.socket) -> None:
        if self._clients.pop(client, None) is not None:
            asyncio.get_running_loop().remove_reader(client)
            client.close()

    def _readable(self, client: socket.socket) -> None:
        try:
            # Room for the credentials alone: descriptors that somebody sends along are closed by the kernel.
            room = socket.CMSG_SPACE(_UCRED.size)
            packet, parts, _, _ = client.recvmsg(REQUEST.size + 1, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            packet, parts = b"", []
        if not packet:
            self._hang_up(client)
            return
        asyncio.get_running_loop().remove_reader(client)  # the next packet waits for its turn
        task = asyncio.create_task(self._answer(client, packet, parts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, client: socket.socket, packet: bytes, parts: list[tuple[int, int, bytes]]) -> None:
        try:
            service, answer = await self._serve(packet, parts)
        except Exception as error:
            log.exception("a service failed")
            service, answer = 0, Answer(error=errno.EIO, text=f"defect: {type(error).__name__}; see the daemon's log")
        try:
            socket.send_fds(client, [answer.pack(service)], answer.descriptors)
        except OSError:
            self._hang_up(client)  # gone, or it does not read: its contexts end with its descriptors
        finally:
            for fd in answer.descriptors:
                os.close(fd)
        if client in self._clients:
            asyncio.get_running_loop().add_reader(client, self._readable, client)

    async def _serve(self, packet: bytes, parts: list[tuple[int, int, bytes]]) -> tuple[int, Answer]:
        credentials = [data for level, kind, data in parts if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)]
        if not credentials:
            return 0, Answer(error=errno.EPERM, text="the kernel does not say who sent this")
        pid, uid, _ = _UCRED.unpack(credentials[0])
        try:
            sender = look_up(pid, uid)
        except Refusal as refusal:
            return 0, Answer(error=refusal.errno, text=str(refusal))
        # Shielded: a client that hangs up does not leave a half-done change behind.
        return await asyncio.shield(asyncio.ensure_future(serve(self._luns, packet, sender)))


def _raise_descriptor_limit() -> None:
    """Each context has a bell, and most have a connection: more than the usual 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
