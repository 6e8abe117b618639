# SPDX-License-Identifier: GPL-3.0-or-later
"""The areas and the bell of a context, from the master's side."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import struct
from dataclasses import dataclass

from .wire import ERROR, area_bytes

_F_ADD_SEALS = 1033
_SEAL_SEAL, _SEAL_SHRINK, _SEAL_GROW, _SEAL_FUTURE_WRITE = 1, 2, 4, 16
_STATUS = struct.Struct("<Q")
_PAGE = 4096


@dataclass
class Areas:
    """`user`, `master`, `bell` (the application's end) are passed on; the rest stays here."""

    user: int
    master: int
    bell: int
    engine_bell: int
    status: mmap.mmap | None

    @classmethod
    def nothing(cls) -> Areas:
        """Of a context that is being made."""
        return cls(-1, -1, -1, -1, None)

    def give(self) -> list[int]:
        """What the application gets, once; the master area cannot be mapped writable by anybody any more."""
        fcntl.fcntl(self.master, _F_ADD_SEALS, _SEAL_FUTURE_WRITE | _SEAL_SEAL)
        given = [self.bell, self.user, self.master]
        self.bell = self.user = self.master = -1
        return given

    def fail(self) -> None:
        """All ones in the status word, and whoever sleeps wakes up."""
        assert self.status is not None
        self.status[:8] = _STATUS.pack(ERROR)
        bell = socket.socket(fileno=os.dup(self.engine_bell))
        with contextlib.suppress(OSError), bell:
            bell.send(b"\0", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        if self.status is not None:
            self.status.close()
        for fd in (self.user, self.master, self.bell, self.engine_bell):
            if fd >= 0:
                os.close(fd)


def make_areas(depth: int) -> Areas:
    size = area_bytes(depth)
    files = []
    for name, seals in (("user", _SEAL_SHRINK | _SEAL_GROW | _SEAL_SEAL), ("master", _SEAL_SHRINK | _SEAL_GROW)):
        fd = os.memfd_create(f"cxlflash-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, _F_ADD_SEALS, seals)
        files.append(fd)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Areas(files[0], files[1], theirs.detach(), ours.detach(), mmap.mmap(files[1], _PAGE))
