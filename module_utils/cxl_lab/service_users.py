# SPDX-License-Identifier: GPL-3.0-or-later
"""Who needs a daemon that several labs share: each leaves a mark beside the pid file; the last one to go ends it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import List

from .detached import Daemon


@dataclass(frozen=True)
class Users:
    """The marks of one daemon, a file per user. Whoever changes them holds the folder (:func:`.locking.folder_held`)."""

    folder: Path

    @classmethod
    def of(cls, daemon: Daemon) -> Users:
        return cls(daemon.folder / f"{daemon.name}.users")

    def others(self, user: str) -> List[str]:
        """Who needs it beside this one, sorted."""
        try:
            return sorted(mark.name for mark in self.folder.iterdir() if mark.name != user)
        except FileNotFoundError:
            return []

    def has(self, user: str) -> bool:
        return (self.folder / user).exists()

    def add(self, user: str) -> None:
        self.folder.mkdir(mode=0o755, exist_ok=True)
        (self.folder / user).touch()

    def drop(self, user: str) -> None:
        """The folder goes with the last mark."""
        (self.folder / user).unlink(missing_ok=True)
        if self.folder.exists() and not self.others(user):
            with contextlib.suppress(FileNotFoundError):
                self.folder.rmdir()
