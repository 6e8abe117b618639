# SPDX-License-Identifier: GPL-3.0-or-later
"""Who uses a device. The kernel takes a devdax namespace away from under its users (they die with SIGBUS), so ask first."""

from __future__ import annotations

from pathlib import Path


def users_of(device: str, proc: Path = Path("/proc")) -> list[str]:
    """The processes that have the device open or mapped, and the mount points of it.

    :param device: a path such as /dev/dax0.0.
    :returns: phrases such as "process 812 (python3)" or "mounted at /mnt/cbd0"; none when it is free.
    """
    return _mounts(device, proc) + [
        f"process {task.name} ({_read(task / 'comm').strip()})" for task in _processes(proc) if _uses(task, device)
    ]


def _processes(proc: Path) -> list[Path]:
    return sorted((path for path in proc.glob("[0-9]*")), key=lambda path: int(path.name) if path.name.isdigit() else 0)


def _uses(task: Path, device: str) -> bool:
    if any(line.endswith(f" {device}") for line in _read(task / "maps").splitlines()):
        return True
    try:
        return any(str(link.readlink()) == device for link in (task / "fd").iterdir())
    except OSError:  # the process ended meanwhile, or it is a kernel thread
        return False


def _mounts(device: str, proc: Path) -> list[str]:
    rows = [line.split() for line in _read(proc / "mounts").splitlines()]
    return [f"mounted at {row[1]}" for row in rows if len(row) > 1 and row[0] == device]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
