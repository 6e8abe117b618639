# SPDX-License-Identifier: GPL-3.0-or-later
"""A verification pattern at the beginning of a device that no file system can be mounted from: written through NBD, compared
there and on the backing device.

The first block is a header that tells what follows; every other byte follows from the seed in it. A device that carries
anything else is never written to.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import nbd
from .errors import LabError
from .runner import Runner
from .sizes import format_size
from .verify import Measured, timed
from .verify_tree import SIZE_MAX, SIZE_MIN

BLOCK = 4096
_CHUNK = 1 << 20
_BLANK_BYTES = 1 << 20
_SHOWN = 10
_HEADER = re.compile(
    rb"# cxl\.lab verification pattern\n# seed: ([0-9a-f]{32})\n# transport: ([0-9a-f-]{0,36})\n# bytes: ([0-9]{1,15})\n\0*"
)


@dataclass(frozen=True)
class Pattern:
    """``size`` bytes, the header included; ``seed`` has 32 hex digits, ``transport`` is the UUID below the device or ""."""

    seed: str
    transport: str
    size: int

    #: A pattern is no file; a tree of the same size has some.
    files = 0

    @property
    def header(self) -> bytes:
        """The first block."""
        lines = [
            "# cxl.lab verification pattern",
            f"# seed: {self.seed}",
            f"# transport: {self.transport}",
            f"# bytes: {self.size}",
        ]
        return "".join(f"{line}\n" for line in lines).encode().ljust(BLOCK, b"\0")

    @property
    def digest(self) -> str:
        """The SHA-256 sum of the header: what a host tells another so that both mean the same pattern."""
        return hashlib.sha256(self.header).hexdigest()

    def chunks(self) -> Iterator[bytes]:
        """All bytes in order, in pieces of at most 1 MiB."""
        for number, start in enumerate(range(0, self.size, _CHUNK)):
            data = random.Random(f"{self.seed}/{number}").randbytes(min(_CHUNK, self.size - start))
            yield data if number else self.header + data[BLOCK:]


def check_size(size: int) -> int:
    """A size that a pattern can have.

    :raises LabError: outside 64 KiB to 64 GiB, or for a part of a block.
    """
    if SIZE_MIN <= size <= SIZE_MAX and size % BLOCK == 0:
        return size
    raise LabError("verification pattern", f"{size} bytes are not possible", 'choose "64K" to "64G", for example "32M"')


def parse_header(block: bytes) -> Pattern | None:
    """The pattern that a first block announces; None when it is no header of ours."""
    match = _HEADER.fullmatch(block[:BLOCK])
    if match is None or not SIZE_MIN <= int(match.group(3)) <= SIZE_MAX or int(match.group(3)) % BLOCK:
        return None
    pattern = Pattern(match.group(1).decode(), match.group(2).decode(), int(match.group(3)))
    return pattern if pattern.header == block[:BLOCK] else None


def carried(device: str, beginning: bytes) -> Pattern | None:
    """The pattern that a device carries; None when it is blank. Pure.

    :raises LabError: when somebody else's data may be on it.
    """
    pattern = parse_header(beginning)
    if pattern is None and any(beginning):
        step = f"use a blank device, or zero its first MiB if nobody needs it: head -c 1M /dev/zero | nbdcopy - '{device}'"
        raise LabError(device, "carries something that is not ours", step)
    return pattern


def observe(runner: Runner, uri: str, size: int) -> Pattern | None:
    """The same, asked of a device over NBD that has to have room for ``size`` bytes.

    :raises LabError: also when it is too small.
    """
    capacity = nbd.read_size(runner, uri)
    if capacity < size:
        raise LabError(uri, f"has {format_size(capacity)}, the pattern {format_size(size)}", "lower the size (cxl_verify_size)")
    # Of most devices the first block tells; the rest is only read where that is blank.
    pattern = carried(uri, _beginning(runner, uri, BLOCK))
    return pattern or carried(uri, _beginning(runner, uri, min(capacity, _BLANK_BYTES)))


def write(runner: Runner, uri: str, pattern: Pattern) -> Measured:
    """Writes the pattern through NBD; it is on the backend's medium on return."""
    with tempfile.TemporaryDirectory(prefix="cxl-verify-") as folder:
        source = Path(folder, "pattern")
        with source.open("wb") as file:
            file.writelines(pattern.chunks())
        return timed("write", lambda: nbd.write(runner, source, uri), lambda _: (pattern.files, pattern.size))[1]


def compare_uri(runner: Runner, uri: str, expected_digest: str, what: str) -> tuple[Pattern, Measured]:
    """Reads the pattern back through NBD.

    :param expected_digest: sum of the header that must be there; "" takes the one that is.
    :raises LabError: names the bad ranges.
    """
    pattern = _expect(uri, _beginning(runner, uri, BLOCK), expected_digest)
    with tempfile.TemporaryDirectory(prefix="cxl-verify-") as folder:
        copy = Path(folder, "copy")
        _, measured = timed(what, lambda: nbd.read(runner, uri, pattern.size, copy), lambda _: (pattern.files, pattern.size))
        with copy.open("rb") as file:
            _check(uri, bad_ranges(file, pattern))
    return pattern, measured


def compare_path(path: str, expected_digest: str, what: str) -> tuple[Pattern, Measured]:
    """The same for a file or block device of this host, past the page cache as far as the kernel lets go of it."""
    try:
        with Path(path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            pattern = _expect(path, file.read(BLOCK), expected_digest)
            file.seek(0)
            ranges, measured = timed(what, lambda: bad_ranges(file, pattern), lambda _: (pattern.files, pattern.size))
    except OSError as error:
        raise LabError(path, f"cannot be read: {error.strerror}", "look at dmesg of the host") from error
    _check(path, ranges)
    return pattern, measured


def bad_ranges(file: BinaryIO, pattern: Pattern) -> list[range]:
    """Where the bytes differ, in whole blocks, neighbours joined; also what is missing at the end."""
    found: list[range] = []
    start = 0
    for wanted in pattern.chunks():
        data = file.read(len(wanted))
        for offset in range(0, len(wanted), BLOCK) if data != wanted else ():
            if data[offset : offset + BLOCK] == wanted[offset : offset + BLOCK]:
                continue
            bad = range(start + offset, start + offset + BLOCK)
            joined = bool(found) and found[-1].stop == bad.start
            found[-1:] = [range(found[-1].start, bad.stop)] if joined else [*found[-1:], bad]
        start += len(wanted)
    return found


def _expect(device: str, block: bytes, expected_digest: str) -> Pattern:
    pattern = parse_header(block)
    if pattern is None:
        raise LabError(device, "carries no verification pattern", "write it first (action: write)")
    if expected_digest not in ("", pattern.digest):
        problem = (
            f"carries another pattern than the one just written (header {pattern.digest[:16]}..., not {expected_digest[:16]}...)"
        )
        raise LabError(device, problem, "check that this is the backing device of that blkdev")
    return pattern


def _check(device: str, ranges: list[range]) -> None:
    if ranges:
        words = [f"{len(each)} bytes at {each.start:#x}" for each in ranges]
        shown = "; ".join(words[:_SHOWN]) + (f"; and {len(words) - _SHOWN} more places" if len(words) > _SHOWN else "")
        raise LabError(device, f"differs from the pattern: {shown}", "look at the statistics of the blkdev", observed=words)


def _beginning(runner: Runner, uri: str, length: int) -> bytes:
    with tempfile.TemporaryDirectory(prefix="cxl-verify-") as folder:
        copy = Path(folder, "copy")
        nbd.read(runner, uri, length, copy)
        return copy.read_bytes()
