# SPDX-License-Identifier: GPL-3.0-or-later
"""The index of the swap volume: a file in the runtime folder, so that it outlives its process, but never a boot."""

from __future__ import annotations

import os
import struct
import uuid as uuidlib
from pathlib import Path

from ..cbd.hosting import boot_id
from ..core import COHERENCE_HARDWARE
from ..errors import from_errno
from ..mapping import Mapping
from ..memory import Memory
from .layout import ENTRY, PAGE
from .pages import SWAP, Pages, Volume

_HEADER = struct.Struct("<16s16sQ")  # boot, pool, blocks


class SwapIndex:
    """A header page, then the entries."""

    def __init__(self, path: Path, blocks: int) -> None:
        self._path = path
        self._blocks = blocks
        self._mapping = Mapping(Memory("swap index", str(path), _size(blocks), "file"))
        self._mapping.use_coherence(COHERENCE_HARDWARE)

    @classmethod
    def find(cls, runtime: Path, pool: str, uuid: uuidlib.UUID) -> SwapIndex | None:
        """That of this boot and this pool; anything else is removed."""
        path = _path(runtime, pool)
        try:
            with path.open("rb") as file:
                boot, owner, blocks = _HEADER.unpack(file.read(_HEADER.size))
        except FileNotFoundError:
            return None
        except (OSError, struct.error):
            boot = owner = b""
            blocks = 0
        if boot != boot_id() or owner != uuid.bytes or path.stat().st_size < PAGE + blocks * ENTRY:
            path.unlink()
            return None
        return cls(path, blocks)

    @classmethod
    def make(cls, runtime: Path, pool: str, uuid: uuidlib.UUID, blocks: int) -> SwapIndex:
        path = _path(runtime, pool)
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        temporary.touch(0o600, exist_ok=False)
        with temporary.open("r+b") as file:
            file.write(_HEADER.pack(boot_id(), uuid.bytes, blocks))
            file.flush()
            _allocate(file.fileno(), temporary, blocks)
        temporary.replace(path)
        return cls(path, blocks)

    def open(self, pages: Pages) -> Volume:
        return Volume(pages, self._mapping.mem, PAGE, self._blocks, user=SWAP, durable=False)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._mapping.close()


def _allocate(fd: int, path: Path, blocks: int) -> None:
    """All of it now: the pool's process would die of an entry for which there is no room. Raises `full`."""
    try:
        os.posix_fallocate(fd, 0, _size(blocks))
    except OSError as error:
        path.unlink()
        hint = "choose a smaller size"
        raise from_errno(error.errno or 0, str(path), f"make an index of {_size(blocks)} bytes", hint) from None


def _size(blocks: int) -> int:
    return PAGE + -(-blocks * ENTRY // PAGE) * PAGE


def is_of_this_boot(runtime: Path, pool: str) -> bool:
    """Whether the kernel may have swapped to the pool since the host started."""
    try:
        with _path(runtime, pool).open("rb") as file:
            return file.read(len(boot_id())) == boot_id()
    except OSError:
        return False


def _path(runtime: Path, pool: str) -> Path:
    return runtime / f"{pool}.swap-index"
