# SPDX-License-Identifier: GPL-3.0-or-later
"""A state file, mapped: claims for heads by compare-and-swap in the C core.

The file is made aside, with its full size and header, and linked into place: under its name it is whole from the first moment,
however many create it at once. Its header never changes afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import stat
import time
from collections.abc import Iterator, Sequence
from ctypes import byref, c_uint64
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .. import core
from ..errors import Code, DatapathError, from_errno
from .layout import NAME_BYTES, PAGE, WIDTHS, Layout, pack, unpack

Range = tuple[int, int]  # first block, number of blocks
_TRIES = 100  # of a claim that met one of the other kind under way
_PREFIX = PAGE + NAME_BYTES * WIDTHS[-1]


@dataclass(frozen=True)
class Span:
    """Neighbouring blocks with the same holders; bit h of each word is head h."""

    first: int
    count: int
    exclusive: int
    shared: int

    @property
    def holders(self) -> int:
        return self.exclusive | self.shared


def create(path: Path, layout: Layout) -> bool:
    """Makes the file; False when one is there already, whatever it holds."""
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, layout.file_bytes)
            os.pwrite(fd, pack(layout), 0)
            os.fsync(fd)
            with contextlib.suppress(FileExistsError):
                os.link(partial, path, follow_symlinks=False)
                return True
            return False
        finally:
            os.close(fd)
            partial.unlink()
    except OSError as error:
        raise from_errno(error.errno or 0, str(path), "create it", "is its folder there, and has it room?") from None


class StateFile:
    """An open state file. Raises what `layout.unpack` raises; every method raises `range` beyond the heads or blocks it has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        core.library()
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            hint = "create it: cxl-datapath mhsld create" if error.errno == 2 else "run as its owner"
            raise from_errno(error.errno or 0, str(path), "open it", hint) from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise DatapathError(Code.INVALID, str(path), "is no regular file", "name the state file")
            self.layout = unpack(os.pread(fd, _PREFIX, 0), found.st_size, str(path))
            self._mapping = mmap.mmap(fd, found.st_size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
        self._anchor = ctypes.c_uint8.from_buffer(self._mapping)
        # From the number: a cast of the object itself would keep the mapping from being closed.
        base = ctypes.cast(ctypes.c_void_p(ctypes.addressof(self._anchor)), ctypes.POINTER(ctypes.c_uint8))
        layout = self.layout
        offsets = (layout.exclusive_off, layout.shared_off)
        self._map = core.MhsldMap(base, found.st_size, *offsets, layout.blocks, layout.word_bytes, 0)

    def head(self, name: int | str) -> int:
        """The number of a head by number or name."""
        heads = self.layout.heads
        if isinstance(name, str) and name in heads and name:
            return heads.index(name)
        if isinstance(name, int) and not isinstance(name, bool) and 0 <= name < len(heads):
            return name
        known = ", ".join(self.head_name(number) for number in range(len(heads)))
        raise DatapathError(Code.RANGE, str(self.path), f"has no head {name!r:.70}", f"it has {known}")

    def head_name(self, number: int) -> str:
        return self.layout.heads[number] or str(number)

    def holder_names(self, holders: int) -> list[str]:
        return [self.head_name(head) for head in range(len(self.layout.heads)) if holders >> head & 1]

    def claim(self, head: int, ranges: Sequence[Range], shared: bool = False) -> None:
        """All ranges or none. Raises `busy` with the head that has the first block in the way."""
        done: list[Range] = []
        try:
            for each in sorted(ranges):  # in one order on every head: else two could each stop the other
                self._claim(self.head(head), each, shared)
                done.append(each)
        except DatapathError:
            self.release(head, done)
            raise

    def _claim(self, head: int, wanted: Range, shared: bool) -> None:
        conflict = core.MhsldConflict()
        for _ in range(_TRIES):
            result = core.library().mhsld_claim(byref(self._map), head, *self._check(wanted), int(shared), byref(conflict))
            if result != -11:  # EAGAIN: a claim of the other kind was under way, and neither may have won
                break
            time.sleep(random.uniform(0.0, 0.002))
        if result in (-11, -16):
            raise self._conflict(head, conflict)
        core.check(result, str(self.path), "claim blocks")

    def _conflict(self, head: int, conflict: core.MhsldConflict) -> DatapathError:
        names = self.holder_names(conflict.holders) or ["another head"]
        if conflict.holders >> head & 1:
            names = [f"head {self.head_name(head)} itself"]
        where = f"block {conflict.block} (at {conflict.block * self.layout.block:#x}) belongs to {', '.join(names)}"
        hint = "choose another range, or release it there; what it has: cxl-datapath mhsld show"
        return DatapathError(Code.BUSY, f"{self.path} head {self.head_name(head)}", where, hint)

    def release(self, head: int, ranges: Sequence[Range]) -> int:
        """Takes these blocks from the head; how many it had."""
        total, released = 0, c_uint64()
        checked = [self._check(each) for each in ranges]
        for first, count in checked:
            result = core.library().mhsld_release(byref(self._map), self.head(head), first, count, byref(released))
            core.check(result, str(self.path), "release blocks")
            total += released.value
        return total

    def clear(self, head: int) -> int:
        """What a head does when it starts: nothing of a dead predecessor's is its own. How many blocks that were."""
        return self.release(head, [(0, self.layout.blocks)])

    def spans(self) -> list[Span]:
        """Everything that is claimed. Each word is read once; with claims under way it is no snapshot."""
        return list(_merge(self._words()))

    def _words(self) -> Iterator[Span]:
        step = 1 << 16
        for first in range(0, self.layout.blocks, step):
            count = min(step, self.layout.blocks - first)
            exclusive, shared = (c_uint64 * count)(), (c_uint64 * count)()
            core.check(
                core.library().mhsld_read(byref(self._map), first, count, exclusive, shared), str(self.path), "read the claims"
            )
            for index in range(count):
                if exclusive[index] | shared[index]:
                    yield Span(first + index, 1, exclusive[index], shared[index])

    def _check(self, wanted: Range) -> Range:
        first, count = wanted
        if first < 0 or count <= 0 or first + count > self.layout.blocks:
            what = f"has no blocks {first} to {first + count - 1}"
            raise DatapathError(Code.RANGE, str(self.path), what, f"it has blocks 0 to {self.layout.blocks - 1}")
        return wanted

    def close(self) -> None:
        del self._map, self._anchor
        self._mapping.close()

    def __enter__(self) -> StateFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _merge(words: Iterator[Span]) -> Iterator[Span]:
    """Neighbours with the same holders become one."""
    last: Span | None = None
    for word in words:
        if last and (last.first + last.count, last.exclusive, last.shared) == (word.first, word.exclusive, word.shared):
            last = Span(last.first, last.count + word.count, last.exclusive, last.shared)
            continue
        if last:
            yield last
        last = word
    if last:
        yield last
