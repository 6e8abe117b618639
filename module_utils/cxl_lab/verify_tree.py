# SPDX-License-Identifier: GPL-3.0-or-later
"""A tree of files with known content, and the comparison with it. Works on any folder.

The content of a file follows from a seed and its path. The MANIFEST beside the files holds their SHA-256 sums and what the
tree was written for; ``sha256sum -c MANIFEST`` reads it too.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .durable import sync_folder
from .errors import LabError

MANIFEST = "MANIFEST"
SIZE_MIN = 64 << 10
SIZE_MAX = 64 << 30
FILE_MAX = 16 << 20
#: Sizes on and beside the borders of sectors, pages and extents; every tree has them, as far as its total allows.
_EDGES = (0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 65535, 65536, 1 << 20, (1 << 20) + 1, FILE_MAX)
_HEAD = "# cxl.lab verification tree"
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")
_FIELD = re.compile(r"# ([a-z]+): (\S*)")
_TOTAL = re.compile(r"[0-9]{1,15}")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TreeFile:
    """One file of a tree: its relative path and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a tree was written for, and the sum of each file by its path. ``size`` is the total in bytes."""

    seed: str
    transport: str
    filesystem: str
    size: int
    sums: dict[str, str]

    def text(self) -> str:
        fields = [("seed", self.seed), ("transport", self.transport), ("filesystem", self.filesystem)]
        head = [_HEAD, *(f"# {key}: {value}" for key, value in fields), f"# files: {len(self.sums)}", f"# bytes: {self.size}"]
        return "\n".join([*head, *(f"{digest}  {path}" for path, digest in sorted(self.sums.items()))]) + "\n"

    @property
    def files(self) -> int:
        return len(self.sums)

    @property
    def digest(self) -> str:
        """The SHA-256 sum of the manifest itself: what a host tells another so that both mean the same tree."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def plan_tree(size: int) -> list[TreeFile]:
    """Files of 0 B to 16 MiB in nested folders, exactly ``size`` bytes in all.

    :raises LabError: for a total outside 64 KiB to 64 GiB.
    """
    if not SIZE_MIN <= size <= SIZE_MAX:
        raise LabError("verification tree", f"{size} bytes are not possible", 'choose "64K" to "64G", for example "32M"')
    sizes = list(_edges(size))
    left = size - sum(sizes)
    while left:
        sizes.append(min(left, FILE_MAX))
        left -= sizes[-1]
    return [TreeFile(_path(index), length) for index, length in enumerate(sizes)]


def _edges(total: int) -> Iterator[int]:
    left = total
    for size in _EDGES:
        if size <= left:
            left -= size
            yield size


def _path(index: int) -> str:
    """Flat, nested and deeply nested in turn."""
    folders = ["", f"group{index // 3:04d}/", f"group{index // 3:04d}/deep/er/"]
    return f"{folders[index % 3]}file{index:05d}"


def content(seed: str, file: TreeFile) -> bytes:
    """The bytes of a file: they look random and are the same wherever they are made."""
    return random.Random(f"{seed}/{file.path}").randbytes(file.size)


def write_tree(root: Path, files: list[TreeFile], seed: str, transport: str, filesystem: str) -> Manifest:
    """Writes the files, then the MANIFEST, so that a tree that was cut short has none.

    Everything is on the medium when it returns.
    """
    sums = {}
    for file in files:
        data = content(seed, file)
        _write(root / file.path, data)
        sums[file.path] = hashlib.sha256(data).hexdigest()
    manifest = Manifest(seed, transport, filesystem, sum(file.size for file in files), sums)
    _write(root / MANIFEST, manifest.text().encode())
    for folder in sorted({root, *(path for path in root.rglob("*") if path.is_dir())}):
        sync_folder(folder)
    return manifest


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of a tree; None when there is none, so that no complete tree is there.

    :raises LabError: when it is damaged.
    """
    try:
        return parse_manifest((root / MANIFEST).read_text(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LabError(str(root / MANIFEST), f"cannot be read: {error.strerror}", "look at dmesg of the host") from error


def parse_manifest(text: str) -> Manifest:
    """The opposite of ``Manifest.text``.

    :raises LabError: unless the text is exactly what that makes; a path can never lead out of the tree.
    """
    lines = text.splitlines()
    fields = {match.group(1): match.group(2) for line in lines if (match := _FIELD.fullmatch(line))}
    sums = {match.group(2): match.group(1) for line in lines if (match := _LINE.fullmatch(line))}
    size = fields.get("bytes", "")
    manifest = Manifest(
        fields.get("seed", ""),
        fields.get("transport", ""),
        fields.get("filesystem", ""),
        int(size) if _TOTAL.fullmatch(size) else -1,
        sums,
    )
    if manifest.text() != text or not all(_is_inside(path) for path in sums):
        raise LabError(MANIFEST, "is damaged", "write the tree again (cxl_verify_rerun: true)")
    return manifest


def compare_tree(root: Path, manifest: Manifest) -> list[str]:
    """What differs from the manifest, one phrase for each bad file; none when every byte is right.

    The files are read past the page cache as far as the kernel lets go of it.
    """
    problems = [f"{path}: {why}" for path, digest in sorted(manifest.sums.items()) if (why := _check(root / path, digest))]
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or not path.is_dir()}
    return problems + [f"{path}: is not in the manifest" for path in sorted(there - set(manifest.sums) - {MANIFEST})]


def _check(path: Path, digest: str) -> str:
    try:
        found = _sum(path)
    except OSError as error:
        return error.strerror or "cannot be read"
    return "" if found == digest else f"SHA-256 {found[:16]}..., not {digest[:16]}..."


def _sum(path: Path) -> str:
    state = hashlib.sha256()
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(0, "is no regular file")
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := os.read(number, _CHUNK):
            state.update(chunk)
    finally:
        os.close(number)
    return state.hexdigest()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == path and path != MANIFEST
