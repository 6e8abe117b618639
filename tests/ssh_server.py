# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's sshd on a loopback port, without a host: it lets one key in and nothing else happens."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko


class _Door(paramiko.ServerInterface):
    def __init__(self, user_key: str) -> None:
        self._user_key = user_key.split()[1]

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        fits = username == "root" and key.get_base64() == self._user_key
        return paramiko.AUTH_SUCCESSFUL if fits else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"


@contextlib.contextmanager
def listener(answer) -> Iterator[int]:
    """The port of a loopback server that hands each connection to ``answer`` in a thread of its own."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def sshd(host_key: Path, user_key: str) -> Iterator[int]:
    """The port of a server with this private host key that lets root in with this public key ("ssh-ed25519 AAAA...")."""
    transports = []

    def answer(connection: socket.socket) -> None:
        transport = paramiko.Transport(connection)
        transports.append(transport)
        transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(host_key)))
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(server=_Door(user_key))

    with listener(answer) as port:
        try:
            yield port
        finally:
            for transport in transports:
                transport.close()
