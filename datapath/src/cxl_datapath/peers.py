# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is at the other end of a unix socket (the kernel says so: SO_PEERCRED), and who may use the sockets of this package."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .errors import Code, DatapathError

_UCRED = struct.Struct("iII")


PATH_MAX = 107  # bytes of a socket's path, sun_path less its NUL


def check_socket_path(path: Path, what: str = "--runtime folder") -> None:
    """Raises `invalid` when no socket can have this path; `what` is what to shorten."""
    if (length := len(os.fsencode(path))) > PATH_MAX:
        problem = f"the path has {length} bytes, that of a socket can have {PATH_MAX}"
        raise DatapathError(Code.INVALID, str(path), problem, f"use a shorter {what}")


def remove_own(path: Path, made: os.stat_result | None) -> None:
    """Removes a socket that was made there, unless another one has its place by now. Never raises."""
    with suppress(OSError):
        if made is not None and os.path.samestat(path.stat(), made):
            path.unlink()


class Peer(NamedTuple):
    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    return Peer(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def may_talk(uid: int, gid: int, group: int | None) -> bool:
    """Whether a peer with these ids may use the control socket; `group` is the configured group's id."""
    if uid in (0, os.geteuid()) or (group is not None and gid == group):
        return True
    if group is None:
        return False
    try:
        return group in os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except (KeyError, OSError):
        return False


def group_id(name: str | None) -> int | None:
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise DatapathError(
            Code.NOT_FOUND, f"group {name}", "there is no such group", "create it, or leave --group out"
        ) from None
