# SPDX-License-Identifier: GPL-3.0-or-later
"""What a lab of processes left on this machine, found by the lab's name and not by its inventory, which may have changed since:
the pid files of its daemons, and the folders and files that carry its name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

from .detached import Daemon
from .errors import LabError
from .memory_file import MemoryFileWant, apply, check_path, observe, plan_absent


@dataclass(frozen=True)
class LocalLab:
    """The places of a lab; a record so that a test can choose them.

    :param paths: files elsewhere that the inventory still names.
    :param user: id of the user that the files belong to.
    """

    run: Path
    state: Path
    shared: Path
    prefix: str
    paths: tuple[str, ...] = ()
    user: int = 0

    @classmethod
    def of(cls, lab: str, paths: Sequence[str]) -> LocalLab:
        """That of a name, which is a valid one."""
        name = f"cxl-lab-{lab}"
        return cls(Path("/run") / name, Path("/var/lib") / name, Path("/dev/shm"), f"{name}.", tuple(paths))

    def daemons(self) -> list[Daemon]:
        """Those that were started here and run."""
        known = [
            Daemon(file.stem, (), self.run / file.stem / "control.sock", self.run) for file in sorted(self.run.glob("*.pid"))
        ]
        return [daemon for daemon in known if daemon.own_pid()]

    def files(self) -> list[str]:
        """Memory with the lab's name, and what the inventory names, where it is there."""
        named = [str(path) for path in sorted(self.shared.iterdir()) if path.name.startswith(self.prefix)]
        return list(dict.fromkeys(path for path in (*named, *self.paths) if Path(path).is_symlink() or Path(path).exists()))

    def folders(self) -> list[Path]:
        return [folder for folder in (self.run, self.state) if folder.exists()]

    def left(self) -> list[str]:
        """Everything that is there, for a difference."""
        return [*(f"daemon {daemon.name}" for daemon in self.daemons()), *self.files(), *map(str, self.folders())]


def remove(lab: LocalLab) -> tuple[list[str], list[str]]:
    """Removes all that can be removed; what was, and for the rest why it cannot be."""
    removed, problems = [], []
    for daemon in lab.daemons():
        daemon.stop()
        removed.append(f"daemon {daemon.name}")
    kept = []
    for path in lab.files():
        try:
            want = MemoryFileWant(check_path(path), 0)
            for change in plan_absent(want, observe(want, users=True), lab.user):
                apply(change)
            removed.append(path)
        except LabError as error:
            kept.append(Path(path))
            problems.append(str(error))
    for folder in lab.folders():
        inside = [str(path) for path in kept if folder in path.parents]
        if inside:
            problems.append(f"folder {folder}: stays for {', '.join(inside)}; run this again when that can go")
            continue
        try:
            shutil.rmtree(folder)
            removed.append(str(folder))
        except OSError as error:
            problems.append(f"folder {folder}: cannot be removed: {error.strerror or error}; remove it yourself")
    return removed, problems
