# SPDX-License-Identifier: GPL-3.0-or-later
"""Leases: pages of the pool as memory of a local client, and how they come back.

What a client gets depends on the pool's memory, because a descriptor of the pool's own file would show every page of it:

* a file on tmpfs: a sealed memfd of its own. The pool keeps as many pages away from everybody and frees what lies under them, so
  that memory only changes hands. The client sees nothing else, cannot grow it, and a recall can be enforced: the memfd is cut to
  nothing, and whoever still touches it gets SIGBUS.
* devdax: ranges of the device in steps of 2 MiB. The client opens the device itself, so the kernel's permissions decide, and who
  passes them could read the whole pool anyway. A recall is a request; pages come back when no process maps them any more.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Code, DatapathError
from ..mapping import Mapping
from .layout import PAGE
from .pool import LEASE_RUN_DEVDAX, Pool, Range

LEASES_MAX = 512  # of a pool: each is a descriptor of its process, and all of them have to fit into one answer
LEASES_EACH = 64  # of one process
EXTENTS_MAX = 1024  # of one lease, for the same reason
_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


@dataclass(eq=False)
class Lease:
    """Pages that are with a client. `fd`: of the memfd; -1: `extents` of the device `path`, (offset, length) in bytes."""

    id: int
    pid: int
    pages: list[int]
    fd: int
    path: str
    extents: list[tuple[int, int]]
    recalled: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "pid": self.pid,
            "pages": len(self.pages),
            "kind": "memfd" if self.fd >= 0 else "devdax",
            "recalled": self.recalled,
        }


class Leases:
    """All leases of a pool. Not thread-safe: the caller holds the pool's lock."""

    def __init__(self, pool: Pool, limit: int) -> None:
        self._pool = pool
        self.limit = limit  # pages per client process
        self._next = 1
        self.held: list[Lease] = []
        self._dying: list[
            Lease
        ] = []  # given up by their clients, but not to be used yet: still mapped, or without room for a file

    def grant(self, pid: int, count: int) -> Lease:
        """`count` pages for a process. Raises `denied` over its limit, `full` without free pages, `unsupported`."""
        self._check_limits(pid, count)
        devdax = self._pool.ranges[0].memory.kind == "devdax"
        if devdax and count % LEASE_RUN_DEVDAX:
            hint = f"ask for a multiple of {LEASE_RUN_DEVDAX}"
            raise DatapathError(Code.INVALID, "pages", f"{count} pages cannot be mapped from devdax", hint)
        if not devdax:
            self._check_tmpfs()
        pages = self._pool.pages.take(count, LEASE_RUN_DEVDAX if devdax else 1)
        try:
            lease = self._from_devdax(pid, pages) if devdax else self._from_file(pid, pages)
        except BaseException:
            self._dying.append(Lease(0, pid, pages, -1, "", []))
            self.reap()
            raise
        self._next += 1
        self.held.append(lease)
        return lease

    def _check_limits(self, pid: int, count: int) -> None:
        pool, mine = f"pool {self._pool.name}", [each for each in self.held if each.pid == pid]
        pages = sum(len(each.pages) for each in mine)
        if count < 1 or pages + count > self.limit:
            what = f"{count} more pages for process {pid}, which has {pages}: the limit is {self.limit}"
            raise DatapathError(Code.DENIED, pool, what, "release leases, or raise lease_limit")
        if len(mine) >= LEASES_EACH:
            what = f"process {pid} has {LEASES_EACH} leases, which is the limit"
            raise DatapathError(Code.DENIED, pool, what, "lease more pages at once")
        if len(self.held) >= LEASES_MAX:
            raise DatapathError(Code.FULL, pool, f"has {LEASES_MAX} leases, which is the limit", "release leases")
        if count > self._pool.pages.counts()["available"]:
            raise DatapathError(Code.FULL, pool, f"has no {count} pages to lease", "release leases or ask for fewer")

    def _check_tmpfs(self) -> None:
        for each in self._pool.ranges:
            if not each.volatile and filesystem_of(each.memory.path) != "tmpfs":
                what = "is dynamic capacity" if each.memory.dynamic else "is a file on a disk, not memory"
                raise DatapathError(Code.UNSUPPORTED, each.memory.spec, what, "lease from devdax or from a file on tmpfs")

    def _from_file(self, pid: int, pages: list[int]) -> Lease:
        for lock, offset, length in self._places(pages):
            if _libc.fallocate(lock.lock, _PUNCH, offset, length):
                raise DatapathError(Code.FAILED, lock.memory.spec, os.strerror(ctypes.get_errno()))
        fd = os.memfd_create(f"{self._pool.name}-lease", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, len(pages) * PAGE)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return Lease(self._next, pid, pages, fd, "", [])

    def _from_devdax(self, pid: int, pages: list[int]) -> Lease:
        """What others had in these pages is cleared first."""
        extents = []
        for place, offset, length in self._places(pages):
            if place.memory.path != self._pool.ranges[0].memory.path:
                raise DatapathError(Code.FULL, f"pool {self._pool.name}", "one device has no room for the lease", "ask for less")
            _clear(place.mapping, offset, length)
            extents.append((offset, length))
        if len(extents) > EXTENTS_MAX:
            what = f"{len(pages)} pages lie in {len(extents)} places"
            raise DatapathError(Code.FULL, f"pool {self._pool.name}", what, "ask for less")
        return Lease(self._next, pid, pages, -1, self._pool.ranges[0].memory.path, extents)

    def _places(self, pages: list[int]) -> Iterator[tuple[Range, int, int]]:
        """Where pages lie, neighbours together: (range, offset, length) in bytes."""
        start = 0
        for end in range(1, len(pages) + 1):
            if end < len(pages) and pages[end] == pages[end - 1] + 1:
                continue
            home = next(r for r in self._pool.ranges if r.first <= pages[start] < r.first + r.pages)
            yield home, (pages[start] - home.first) * PAGE, (end - start) * PAGE
            start = end

    def release(self, lease: Lease) -> None:
        """Takes a lease back, whatever its client does. Pages of devdax that are still mapped stay away from others."""
        self.held.remove(lease)
        if lease.fd >= 0:
            os.ftruncate(lease.fd, 0)
            os.close(lease.fd)
        self._dying.append(lease)
        self.reap()

    def reap(self) -> None:
        """Gives back what nobody maps any more, and what has its memory again."""
        for lease in list(self._dying):
            if not mappers(lease.path, lease.extents) if lease.path else self._refilled(lease.pages):
                self._dying.remove(lease)
                self._pool.pages.give(lease.pages)

    def _refilled(self, pages: list[int]) -> bool:
        """Whether what was taken out of a file is in it again. A page without memory below it would be SIGBUS for us."""
        try:
            for home, offset, length in self._places(pages):
                if home.memory.kind == "file":
                    os.posix_fallocate(home.lock, offset, length)
        except OSError:
            return False
        return True

    def adopt_mapped(self) -> None:
        """Pages that clients of an earlier process still map: kept away from everybody until they let go."""
        first = self._pool.ranges[0]
        if first.memory.kind != "devdax":
            return
        for pid, offset, length in mapped_by_others(first.memory.path):
            pages = [page for page in range(offset // PAGE, (offset + length) // PAGE) if page < first.pages]
            try:
                self._pool.pages.claim(pages)
            except DatapathError:
                continue  # fixed pages or blocks are in it: no lease of ours
            self._dying.append(Lease(0, pid, pages, -1, first.memory.path, [(offset, length)]))

    def to_recall(self, wanted: int) -> list[Lease]:
        """The latest leases that have `wanted` pages together; all when they have not. One that was asked back before, and cannot
        be taken, is not counted on again."""
        chosen: list[Lease] = []
        for lease in [each for each in reversed(self.held) if not each.recalled]:
            if sum(len(each.pages) for each in chosen) >= wanted:
                break
            chosen.append(lease)
        return chosen


def _clear(mapping: Mapping, offset: int, length: int) -> None:
    for start in range(offset, offset + length, 1 << 20):
        mapping.write(start, bytes(min(1 << 20, offset + length - start)))


def filesystem_of(path: str) -> str:
    """Type of the file system that a file is on; empty when it is not known."""
    device = Path(path).stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            return fields[fields.index("-") + 1]
    return ""


def mappers(path: str, extents: list[tuple[int, int]]) -> list[int]:
    """Other processes that map a part of the extents of a device or file."""
    return sorted(
        {
            pid
            for pid, offset, length in mapped_by_others(path)
            for start, size in extents
            if offset < start + size and start < offset + length
        }
    )


def mapped_by_others(path: str) -> Iterator[tuple[int, int, int]]:
    """(pid, offset, length) of each mapping of a file in other processes, as far as we may look into them."""
    found = Path(path).stat()
    for folder in Path("/proc").glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            lines = (folder / "maps").read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            span, _, offset, device, inode, *_ = line.split(maxsplit=5)
            if inode == str(found.st_ino) and inode != "0" and _number(device) == found.st_dev:
                start, end = (int(part, 16) for part in span.split("-"))
                yield int(folder.name), int(offset, 16), end - start


def _number(text: str) -> int:
    major, minor = text.split(":")
    return os.makedev(int(major, 16), int(minor, 16))
