# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies on a block device, how large it is, and where it is mounted."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .runner import Runner, must

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Signature:
    """What blkid recognises: ``type`` is a file system ("xfs") or a partition table ("gpt")."""

    type: str
    label: str = ""
    uuid: str = ""


def read_signature(runner: Runner, device: str) -> Signature | None:
    """What lies on the device; None when nothing that has a signature does.

    :raises LabError: when the device cannot be read.
    """
    argv = ["blkid", "-p", "-o", "export", device]
    done = runner.run(argv)
    if done.rc == 2 and not done.stderr.strip():  # blkid: nothing found
        return None
    if done.rc == 8:
        return Signature("several contradicting things")
    if done.rc != 0:
        raise LabError(device, "cannot be examined", "check that the device is there", cmd=argv, rc=done.rc, stderr=done.stderr)
    pairs = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    kind = pairs.get("TYPE") or pairs.get("PTTYPE") or "something without a type"
    return Signature(kind, pairs.get("LABEL", ""), pairs.get("UUID", ""))


def read_size(runner: Runner, device: str) -> int:
    """Bytes of the device."""
    text = must(runner, ["blockdev", "--getsize64", device], device).strip()
    if not text.isdigit():
        raise LabError(device, f"has no size: {text[:40]!r}")
    return int(text)


def mount_points(device: str, mounts: Path = Path("/proc/mounts")) -> list[str]:
    """Where the device is mounted; a link such as /dev/cbd0 counts as what it points at."""
    rows = [line.split() for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    real = os.path.realpath(device)
    return [
        _unescape(row[1])
        for row in rows
        if len(row) > 2 and row[0].startswith("/") and os.path.realpath(_unescape(row[0])) == real
    ]


def mounted_at(folder: str, mounts: Path = Path("/proc/mounts")) -> str | None:
    """What is mounted at the folder, last mount first; None when nothing is."""
    rows = [line.split() for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()]
    found = [_unescape(row[0]) for row in rows if len(row) > 2 and _unescape(row[1]) == folder]
    return found[-1] if found else None


def _unescape(text: str) -> str:
    """/proc/mounts writes blanks and the like as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), text)
