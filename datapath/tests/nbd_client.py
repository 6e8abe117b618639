# SPDX-License-Identifier: GPL-3.0-or-later
"""An NBD client that outlives its server: it connects again and sends again what was not answered. For tests only.

Fixed newstyle, NBD_OPT_GO, simple replies, one connection over a unix socket, as in the NBD protocol document (proto.md of the
NetworkBlockDevice project). One thread: `submit` queues a request, `wait` moves bytes and hands out what was answered.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

_OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
_REPLY_MAGIC = 0x3E889045565A9
_OPT_GO, _REP_ACK, _REP_INFO, _REP_ERROR = 7, 1, 3, 1 << 31
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_REQUEST, _SIMPLE_REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
_REQUEST_MAGIC, _SIMPLE_REPLY_MAGIC = 0x25609513, 0x67446698
_HANDSHAKE_S, _RETRY_S = 5.0, 0.01


class Command(IntEnum):
    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class Flag(IntFlag):
    """What a server says of its export."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    FLUSH = 4
    FUA = 8
    ROTATIONAL = 16
    TRIM = 32
    WRITE_ZEROES = 64
    MULTI_CONN = 256


FUA = 1  # of a request


class ProtocolError(Exception):
    """The server said what no NBD server may say."""


class Unanswered(Exception):
    """A request was not answered for longer than the client's patience, over all connections."""


class Refused(OSError):
    """The server answered a request with an error."""


@dataclass(frozen=True)
class Export:
    size: int  # bytes
    flags: Flag
    minimum: int = 1  # block sizes in bytes; 1, 4096 and 32 MiB where the server says nothing
    preferred: int = 4096
    maximum: int = 32 << 20


@dataclass(frozen=True)
class Reply:
    cookie: int
    error: int  # an errno as NBD numbers it; 0 is success
    data: bytes  # of a read


@dataclass(frozen=True)
class _Request:
    packet: bytes
    expected: int  # bytes of data in its reply
    since: float


class NbdClient:
    """`patience_s`: how long a request, or the first connection, may take before `wait` raises `Unanswered`."""

    def __init__(self, path: Path, patience_s: float = 60.0) -> None:
        self._path = path
        self._patience_s = patience_s
        self._socket: socket.socket | None = None
        self._pending: dict[int, _Request] = {}  # in the order in which they were asked
        self._cookie = 0
        self._out, self._in = bytearray(), bytearray()
        self._why = "never connected"
        self.connections = 0
        self.resent = 0
        started = time.monotonic()
        while not self._connected():
            self._check_patience(started)
            time.sleep(_RETRY_S)

    @property
    def in_flight(self) -> int:
        return len(self._pending)

    def submit(self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        """Queues a request; returns the cookie of its reply. `length` is that of `data` where there is some."""
        self._cookie += 1
        header = _REQUEST.pack(_REQUEST_MAGIC, flags, command, self._cookie, offset, len(data) or length)
        expected = length if command == Command.READ else 0
        self._pending[self._cookie] = _Request(header + data, expected, time.monotonic())
        if self._socket is not None:
            self._out += header + data
        return self._cookie

    def wait(self, timeout_s: float) -> list[Reply]:
        """The replies that came, at least one unless the time is over. Connects again and sends again as needed."""
        deadline = time.monotonic() + timeout_s
        replies: list[Reply] = []
        while True:
            if self._connected():
                self._move(0.0 if replies else min(0.1, max(0.0, deadline - time.monotonic())))
                replies += self._take()
            else:
                time.sleep(_RETRY_S)
            if replies or time.monotonic() >= deadline:
                return replies
            if self._pending:
                self._check_patience(next(iter(self._pending.values())).since)

    def call(self, command: Command, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> bytes:
        """One request and its answer, with nothing else in flight. Raises `Refused`."""
        assert not self._pending, "call is for a client with nothing in flight"
        cookie = self.submit(command, offset, length, data, flags)
        while not (replies := self.wait(1.0)):
            pass
        (reply,) = replies
        assert reply.cookie == cookie
        if reply.error:
            raise Refused(reply.error, os.strerror(reply.error), f"{command.name} of {len(data) or length} at {offset}")
        return reply.data

    def close(self) -> None:
        """Says goodbye; what is in flight is given up."""
        if self._socket is not None:
            try:
                self._socket.settimeout(_HANDSHAKE_S)
                self._socket.sendall(bytes(self._out) + _REQUEST.pack(_REQUEST_MAGIC, 0, Command.DISCONNECT, 0, 0, 0))
            except OSError:
                pass
            self._drop("closed")

    def __enter__(self) -> NbdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- connection

    def _connected(self) -> bool:
        """Tries once when there is no connection; a new one gets all that was not answered, in the old order."""
        if self._socket is not None:
            return True
        try:
            self._socket, export = _connect(self._path)
        except (OSError, EOFError) as error:
            self._why = str(error) or type(error).__name__
            return False
        if self.connections and export != self.export:
            raise ProtocolError(f"{self._path}: was {self.export}, is {export} after a new connection")
        self.export = export
        self.connections += 1
        self.resent += len(self._pending)
        self._out = bytearray().join(request.packet for request in self._pending.values())
        self._in.clear()
        return True

    def _drop(self, why: str) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, self._why = None, why
        self._out.clear()

    def _check_patience(self, since: float) -> None:
        if time.monotonic() - since > self._patience_s:
            state = "is connected" if self._socket is not None else f"has no connection ({self._why})"
            raise Unanswered(f"{self._path}: no answer for {self._patience_s:.0f} s; the client {state}")

    def _move(self, timeout_s: float) -> None:
        """Sends and receives what can be, after waiting for it."""
        connection = self._socket
        assert connection is not None
        readable, writable, _ = select.select([connection], [connection] if self._out else [], [], timeout_s)
        try:
            if writable:
                del self._out[: connection.send(self._out)]
            if readable:
                data = connection.recv(1 << 20)
                if not data:
                    raise EOFError("the server hung up")
                self._in += data
        except BlockingIOError:
            pass
        except (OSError, EOFError) as error:
            self._drop(str(error))

    def _take(self) -> list[Reply]:
        """The whole replies among the bytes received."""
        replies: list[Reply] = []
        at = 0
        while len(self._in) - at >= _SIMPLE_REPLY.size:
            magic, error, cookie = _SIMPLE_REPLY.unpack_from(self._in, at)
            if magic != _SIMPLE_REPLY_MAGIC or cookie not in self._pending:
                raise ProtocolError(f"{self._path}: a reply with magic {magic:#x} and cookie {cookie}")
            begin = at + _SIMPLE_REPLY.size
            end = begin + (0 if error else self._pending[cookie].expected)
            if end > len(self._in):
                break
            # A server that is shutting down has not done it: the request goes to the next one.
            if error != errno.ESHUTDOWN:
                replies.append(Reply(cookie, error, bytes(self._in[begin:end])))
                del self._pending[cookie]
            at = end
        del self._in[:at]
        return replies


def _connect(path: Path) -> tuple[socket.socket, Export]:
    """A connection in the transmission phase. Raises OSError or EOFError when the server is not there, or goes."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_HANDSHAKE_S)
        connection.connect(str(path))
        export = _handshake(connection)
        connection.setblocking(False)
        return connection, export
    except BaseException:
        connection.close()
        raise


def _receive(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError("the server hung up in the handshake")
        data += part
    return bytes(data)


def _handshake(connection: socket.socket) -> Export:
    greeting, option, flags = struct.unpack(">8sQH", _receive(connection, 18))
    if greeting != b"NBDMAGIC" or option != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
        raise ProtocolError(f"not a fixed newstyle server: {greeting!r} {option:#x} {flags:#x}")
    connection.sendall(struct.pack(">I", _FIXED_NEWSTYLE | flags & _NO_ZEROES))
    # The default export (an empty name), and please its block sizes.
    wish = struct.pack(">IHH", 0, 1, _INFO_BLOCK_SIZE)
    connection.sendall(struct.pack(">QII", _OPTION_MAGIC, _OPT_GO, len(wish)) + wish)
    size: tuple[int, int] | None = None
    blocks: tuple[int, ...] = ()
    while True:
        magic, answered, kind, length = struct.unpack(">QIII", _receive(connection, 20))
        body = _receive(connection, length)
        if magic != _REPLY_MAGIC or answered != _OPT_GO or kind & _REP_ERROR:
            raise ProtocolError(f"answer to NBD_OPT_GO: magic {magic:#x}, option {answered}, type {kind:#x}, {body!r}")
        if kind == _REP_INFO and body[:2] == struct.pack(">H", _INFO_EXPORT):
            size = struct.unpack(">QH", body[2:])
        elif kind == _REP_INFO and body[:2] == struct.pack(">H", _INFO_BLOCK_SIZE):
            blocks = struct.unpack(">III", body[2:])
        elif kind == _REP_ACK:
            break
    if size is None:
        raise ProtocolError("the server did not say the size of its export")
    return Export(size[0], Flag(size[1]), *blocks)
