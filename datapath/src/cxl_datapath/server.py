# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket: one JSON object per line in, one out, for peers that may talk to the daemon.

Who may: root, the daemon's own user, and the members of the configured group. The kernel says who the peer is (SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

from .errors import Code, DatapathError, from_errno, printable
from .methods import METHODS, Handed
from .peers import may_talk, peer_of, remove_own
from .schema import parse
from .service import Datapath

LINE_MAX = 1 << 20
CLIENTS_MAX = 64
IDLE_S = 60.0  # a client that asks nothing for so long is hung up on, so that nobody can keep the others out

log = logging.getLogger(__name__)


class ControlServer:
    """Listens on `<runtime>/control.sock`."""

    def __init__(self, datapath: Datapath, path: Path, group: int | None) -> None:
        self._datapath = datapath
        self._path = path
        self._group = group
        self._server: asyncio.Server | None = None
        self._made: os.stat_result | None = None  # of the socket
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Replaces the socket of a daemon that is gone: the caller holds the lock of the runtime folder."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise from_errno(error.errno or 0, str(self._path), "replace it", "move it away") from None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise DatapathError(
                Code.FAILED, str(self._path), f"cannot listen: {error.strerror or error}", "look at the folder"
            ) from None
        finally:
            os.umask(before)
        self._made = self._path.stat()
        if self._group is not None:
            try:
                os.chown(self._path, -1, self._group)
                self._path.chmod(0o660)
            except OSError as error:
                listener.close()
                hint = "run as root or as a member of the group"
                raise from_errno(error.errno or 0, str(self._path), "give it to the group", hint) from None
        self._server = await asyncio.start_unix_server(self._on_client, sock=listener, limit=LINE_MAX)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        remove_own(self._path, self._made)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the peer went away, or the daemon ends
        finally:
            self._clients.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        _, uid, gid = peer_of(peer)
        if not may_talk(uid, gid, self._group):
            log.warning("control socket: refused uid %d", uid)
            await self._send(
                writer, None, DatapathError(Code.DENIED, "control socket", f"uid {uid} may not use it", "run as root")
            )
            return
        if len(self._clients) > CLIENTS_MAX:
            await self._send(
                writer, None, DatapathError(Code.BUSY, "control socket", f"has {CLIENTS_MAX} clients already", "try again")
            )
            return
        while True:
            try:
                line = await asyncio.wait_for(reader.readuntil(b"\n"), IDLE_S)
            except (asyncio.IncompleteReadError, TimeoutError):
                return
            except asyncio.LimitOverrunError:
                await self._send(writer, None, DatapathError(Code.INVALID, "request", f"is longer than {LINE_MAX} bytes"))
                return
            await self._send(writer, *await self._answer(line))

    async def _answer(self, line: bytes) -> tuple[Any, Any]:
        """The id and the result or error of one request. Never raises but for cancellation."""
        number: Any = None
        try:
            number, name, params = _request(line)
            method = METHODS.get(name)
            if method is None:
                raise DatapathError(
                    Code.INVALID, "request", f"there is no method {name!r:.100}", f"methods: {', '.join(METHODS)}"
                )
            checked = parse(name, method.fields, params)
            if not method.mutates:
                return number, await method.run(self._datapath, checked)
            # Shielded: a client that hangs up does not leave a half-done change behind.
            change = asyncio.ensure_future(self._locked(name, checked))
            change.add_done_callback(_heard)
            return number, await asyncio.shield(change)
        except DatapathError as error:
            return number, error
        except Exception as error:
            log.exception("request failed")
            return number, DatapathError(
                Code.FAILED, "daemon", f"{type(error).__name__}: {error}", "this is a defect: see the daemon's log"
            )

    async def _locked(self, name: str, checked: dict[str, Any]) -> Any:
        method = METHODS[name]
        async with self._datapath.changing(method.within(self._datapath, checked)):
            log.info("%s %s", name, json.dumps(checked))
            try:
                return await method.run(self._datapath, checked)
            except Exception as error:
                # Without it what was refused looks as if it had been done.
                log.warning("%s failed: %s", name, printable(str(error)))
                raise

    async def _send(self, writer: asyncio.StreamWriter, number: Any, answer: Any) -> None:
        if isinstance(answer, Handed):
            await self._hand(writer, number, answer)
            return
        body = {"error": answer.to_json()} if isinstance(answer, DatapathError) else {"result": answer}
        writer.write(json.dumps({"id": number, **body}).encode() + b"\n")
        await writer.drain()

    async def _hand(self, writer: asyncio.StreamWriter, number: Any, handed: Handed) -> None:
        """The answer and the file in one message. Who is only in the group does not get it: it reaches all host addresses."""
        try:
            if self._group is not None:
                hint = "run the daemon without --group"
                await self._send(writer, number, DatapathError(Code.DENIED, "control socket", "is open to a group", hint))
                return
            await writer.drain()
            line = json.dumps({"id": number, "result": handed.answer}).encode() + b"\n"
            with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as peer:
                socket.send_fds(peer, [line], [handed.fd])
        except BlockingIOError:
            raise ConnectionResetError from None  # a peer that does not read its answers
        finally:
            os.close(handed.fd)


def _heard(change: asyncio.Future[Any]) -> None:
    """A change that fails when nobody waits for it any more, at the end of the daemon, is no defect to be logged."""
    if not change.cancelled():
        change.exception()


def _request(line: bytes) -> tuple[Any, str, Any]:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raise DatapathError(Code.INVALID, "request", "is not JSON", 'send {"id": 1, "method": "hello", "params": {}}') from None
    if not isinstance(raw, dict) or not isinstance(raw.get("method"), str):
        raise DatapathError(
            Code.INVALID, "request", "is not an object with a method", 'send {"id": 1, "method": "hello", "params": {}}'
        )
    if unknown := sorted(set(raw) - {"id", "method", "params"}):
        raise DatapathError(Code.INVALID, "request", f"unknown field(s) {', '.join(unknown)[:200]}", "it has: id, method, params")
    if not isinstance(raw.get("id"), int | str | None):
        raise DatapathError(Code.INVALID, "request", "its id is neither a number nor a string")
    return raw.get("id"), raw["method"], raw.get("params", {})
