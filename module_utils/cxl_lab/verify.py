# SPDX-License-Identifier: GPL-3.0-or-later
"""A verification tree on a file system on a device: made on one host, compared there and on the host of the backing device.

The file system is ours when it is xfs with our label. A device that carries anything else, or bytes without a signature, is
never written to.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .block_device import Signature, mount_points, mounted_at, read_signature, read_size
from .errors import LabError
from .runner import Runner, must
from .sizes import format_size
from .verify_tree import Manifest, compare_tree, plan_tree, read_manifest, write_tree

LABEL = "cxl-verify"  # an xfs label has at most 12 characters
FOLDER = "cxl-verify"
#: What a comparison calls itself in the report: on the backing device, and through the blkdev.
COMPARISONS = COMPARE, READ_BACK = ("compare", "read back")
_XFS_MIN = 300 << 20
_BLANK_BYTES = 1 << 20
_SHOWN = 10

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """One line of the report: what was done, with how many files and bytes, in how many seconds."""

    what: str
    files: int
    size: int
    seconds: float

    def row(self, where: str) -> str:
        """A line of the table under ``HEADER``."""
        rate = f"{self.size / (1 << 20) / self.seconds:9.1f}" if self.seconds > 0 and self.size else f"{'-':>9}"
        return f"{self.what:<12} {where:<40} {self.files:>6} {self.size / (1 << 20):>9.1f} {self.seconds:>8.2f} {rate}"


HEADER = f"{'step':<12} {'where':<40} {'files':>6} {'MiB':>9} {'seconds':>8} {'MiB/s':>9}"


def verdict(rows: list[Measured]) -> str:
    """The outcome of what was measured, given that nothing failed."""
    read = [row for row in rows if row.what in COMPARISONS]
    files, size = sum(row.files for row in read), f"{sum(row.size for row in read) / (1 << 20):.1f} MiB"
    if not read:
        return "Nothing was compared."
    return f"All {files} files ({size}) are right." if files else f"All {size} are right."


def is_ours(signature: Signature | None) -> bool:
    """Whether the device carries our file system. Pure."""
    return signature is not None and (signature.type, signature.label) == ("xfs", LABEL)


def needs_filesystem(device: str, signature: Signature | None, size: int, blank: bool) -> bool:
    """Whether the device has to get our file system. Pure.

    :param blank: whether its beginning is all zeroes.
    :raises LabError: when somebody else's data may be on it, or when it is too small.
    """
    if is_ours(signature):
        return False
    if signature or not blank:
        what = f"{signature.type} (label {signature.label or 'none'})" if signature else "bytes that carry no signature"
        raise LabError(device, f"carries {what}, which is not ours", f"wipe it yourself (wipefs -a {device}) if nobody needs it")
    if size < _XFS_MIN:
        raise LabError(device, f"has {format_size(size)}, and xfs takes no less than 300 MiB", "use a larger backing device")
    return True


def observe_needs_filesystem(runner: Runner, device: str) -> bool:
    """The same, asked of the host."""
    if not Path(device).is_block_device():
        raise LabError(device, "is no block device", "start the blkdev first (cbd_blkdev)")
    signature = read_signature(runner, device)
    blank = signature is None and _is_blank(device)  # what has a signature is known at once
    return needs_filesystem(device, signature, read_size(runner, device), blank)


def _is_blank(device: str) -> bool:
    with Path(device).open("rb") as raw:
        return not any(raw.read(_BLANK_BYTES))


def make_filesystem(runner: Runner, device: str) -> Measured:
    """mkfs.xfs with our label."""
    return timed("make xfs", lambda: must(runner, ["mkfs.xfs", "-q", "-L", LABEL, device], device), lambda _: (0, 0))[1]


def is_mounted(device: str, mountpoint: str) -> bool:
    """Whether the device is mounted at the mount point.

    :raises LabError: when it is mounted elsewhere, or when something else is mounted there.
    """
    places = mount_points(device)
    if mountpoint in places:
        return True
    if places:
        raise LabError(
            device, f"is mounted at {', '.join(places)}", f"unmount it, or use that mount point instead of {mountpoint}"
        )
    other = mounted_at(mountpoint)
    if other:
        raise LabError(mountpoint, f"{other} is mounted there", "unmount it, or choose another mount point")
    return False


def mount(runner: Runner, device: str, mountpoint: str) -> None:
    Path(mountpoint).mkdir(parents=True, exist_ok=True)
    # _netdev: at shutdown systemd unmounts it before it stops the daemon that serves the device; the other way round,
    # both would hang.
    must(runner, ["mount", "-t", "xfs", "-o", "_netdev", device, mountpoint], device, "look at dmesg of the host")


def unmount(runner: Runner, mountpoint: str) -> None:
    must(runner, ["umount", mountpoint], mountpoint, "stop what uses it")


@contextmanager
def mounted_read_only(runner: Runner, device: str) -> Iterator[Path]:
    """The file system of a device that a backend holds open: through a read-only loop device, without log recovery."""
    folder = tempfile.mkdtemp(prefix="cxl-verify-")
    try:
        must(
            runner, ["mount", "-t", "xfs", "-o", "ro,norecovery,nouuid,loop", device, folder], device, "look at dmesg of the host"
        )
        try:
            yield Path(folder)
        finally:
            unmount(runner, folder)
    finally:
        Path(folder).rmdir()


def tree_is_complete(mountpoint: str, size: int) -> bool:
    """Whether a tree of this total lies on the mounted file system."""
    manifest = read_manifest(Path(mountpoint) / FOLDER)
    return manifest is not None and manifest.size == size


def write(mountpoint: str, size: int, seed: str, transport: str, filesystem: str) -> tuple[Manifest, Measured]:
    """Writes the tree anew, in the place of an older or unfinished one."""
    root = Path(mountpoint) / FOLDER
    if root.exists():
        shutil.rmtree(root)
    files = plan_tree(size)
    return timed(
        "write",
        lambda: write_tree(root, files, seed, transport, filesystem),
        lambda manifest: (len(manifest.sums), manifest.size),
    )


def compare(root: Path, device: str, expected_digest: str, what: str) -> tuple[Manifest, Measured]:
    """Reads every file back.

    :param expected_digest: sum of the manifest that must be there; "" takes the one that is.
    :raises LabError: names each bad file.
    """
    manifest = read_manifest(root / FOLDER)
    if manifest is None:
        raise LabError(device, "carries no verification tree", "write it first (action: write)")
    if expected_digest and manifest.digest != expected_digest:
        problem = (
            f"carries another tree than the one just written (manifest {manifest.digest[:16]}..., not {expected_digest[:16]}...)"
        )
        raise LabError(device, problem, "check that this is the backing device of that blkdev")
    problems, measured = timed(what, lambda: compare_tree(root / FOLDER, manifest), lambda _: (len(manifest.sums), manifest.size))
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
        problem = f"{len(problems)} of {len(manifest.sums)} files are wrong: {shown}"
        raise LabError(device, problem, "look at the statistics of the blkdev and at dmesg", observed=problems)
    return manifest, measured


def filesystem_uuid(runner: Runner, device: str) -> str:
    """The uuid of the file system on the device."""
    signature = read_signature(runner, device)
    return signature.uuid if signature else ""


def timed(what: str, work: Callable[[], T], count: Callable[[T], tuple[int, int]]) -> tuple[T, Measured]:
    """What ``work`` made, and the line of the report about it.

    :param count: files and bytes, from what was made.
    """
    begin = time.monotonic()
    made = work()
    seconds = time.monotonic() - begin
    files, size = count(made)
    return made, Measured(what, files, size, seconds)
