# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a host ready? Ready means: its sshd shows the pinned host key and lets our key in."""

from __future__ import annotations

import base64
import logging
import socket
from pathlib import Path

import paramiko

# paramiko logs a traceback for each connection that a booting guest drops; here that is no news.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


class WrongHostKey(Exception):
    """Something answers at the port, but it is not our host."""


def try_login(port: int, key: Path, host_public_key: str, timeout: float = 5.0) -> str:
    """Logs in once as root; returns "" when that worked, else why not.

    :raises WrongHostKey: when another key than the pinned one is shown.
    """
    transport = None
    try:
        transport = paramiko.Transport(socket.create_connection(("127.0.0.1", port), timeout))
        transport.banner_timeout = timeout
        transport.start_client(timeout=timeout)
        shown = transport.get_remote_server_key()
        if base64.b64encode(shown.asbytes()).decode() != host_public_key.split()[1]:
            raise WrongHostKey(shown.get_name())
        transport.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(str(key)))
        return ""
    except (OSError, EOFError, paramiko.SSHException) as error:
        return str(error) or type(error).__name__
    finally:
        if transport is not None:
            transport.close()
