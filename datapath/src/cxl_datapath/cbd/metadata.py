# SPDX-License-Identifier: GPL-3.0-or-later
"""Metadata in two copies: neither a torn update nor damage to one loses a state (docs/cbd-format.md, "Metadata copies")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..core import crc32c
from ..errors import Code, DatapathError
from ..mapping import Bytes

HEADER = struct.Struct("<4sIQIIQ")
VERSION = 2
_READ_TRIES = 3  # both copies can be seen in the making when the writer is quick


@dataclass(frozen=True)
class Copy:
    """One valid copy. `version` is what the copy says; the payload means something only if it is `VERSION`."""

    seq: int
    version: int
    payload: bytes


def seal(magic: bytes, seq: int, payload: bytes, length: int, version: int = VERSION) -> bytes:
    """A whole copy of `length` bytes, its CRC filled in."""
    body = (HEADER.pack(magic, 0, seq, len(payload), version, 0) + payload).ljust(length, b"\0")
    return body[:4] + struct.pack("<I", crc32c(body)) + body[8:]


def unseal(magic: bytes, raw: bytes) -> Copy | None:
    """The copy in `raw` when magic, CRC and length hold, else None."""
    if len(raw) < HEADER.size:
        return None
    found, crc, seq, length, version, _ = HEADER.unpack_from(raw)
    if found != magic or seq == 0 or length > len(raw) - HEADER.size:
        return None
    if crc != crc32c(raw[:4] + bytes(4) + raw[8:]):
        return None
    return Copy(seq, version, raw[HEADER.size : HEADER.size + length])


class CopyPair:
    """Copies A and B of one record, one behind the other. One host writes it; any host reads it.

    Who looks again and again pays for checksums only when bytes have changed.
    """

    def __init__(self, memory: Bytes, offset: int, length: int, magic: bytes, what: str, *, hint: str = "") -> None:
        self._memory = memory
        self._offsets = (offset, offset + length)
        self._length = length
        self._magic = magic
        self._what = what
        self._hint = hint  # what to do when both copies are damaged
        self._known: tuple[bytes, Copy] | None = None  # the bytes last found good, and what they mean

    def read(self) -> bytes | None:
        """The newest valid payload; None when nothing was ever written. Raises `corrupt`, or `unsupported` for a version."""
        newest = self.newest()
        if newest is None:
            return None
        if newest.version != VERSION:
            raise DatapathError(
                Code.UNSUPPORTED,
                self._what,
                f"has format version {newest.version}, this program knows {VERSION}",
                "install the matching version",
            )
        return newest.payload

    def newest(self) -> Copy | None:
        for _ in range(_READ_TRIES):
            raw = self._memory.read(self._offsets[0], 2 * self._length)
            if self._known and self._known[0] == raw:
                return self._known[1]
            raws = raw[: self._length], raw[self._length :]
            copies = [copy for raw in raws if (copy := unseal(self._magic, raw)) is not None]
            if copies:
                self._known = raw, max(copies, key=lambda copy: copy.seq)
                return self._known[1]
            if bytes(self._length) in raws:
                return None  # the first write ever was torn, or never began
        raise DatapathError(Code.CORRUPT, self._what, "both metadata copies are damaged", self._hint)

    def write(self, payload: bytes) -> None:
        """Overwrites the older or the invalid copy, then the other one, so that damage to either costs nothing; on return other
        hosts see the payload."""
        found = [unseal(self._magic, self._memory.read(offset, self._length)) for offset in self._offsets]
        seqs = [copy.seq if copy else 0 for copy in found]
        order = (0, 1) if seqs[0] <= seqs[1] else (1, 0)
        for seq, target in enumerate(order, start=max(seqs) + 1):
            self._memory.write(self._offsets[target], seal(self._magic, seq, payload, self._length))
