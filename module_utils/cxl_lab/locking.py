# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock between processes of one machine, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import Callable, Iterator


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on ``path`` (made if missing); the kernel drops it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_held(folder: Path) -> Iterator[None]:
    """Holds an exclusive lock on a folder itself (made if missing), for a folder that may go when nobody needs it any more.

    Whoever removes it does so by ``rmdir``: one that another process has just filled stays.
    """
    while True:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # it went in this moment
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def build_once(target: Path, build: Callable[[Path], None]) -> bool:
    """Makes the folder ``target`` by ``build(partial)`` unless it is there; True when it was made now.

    A build that fails or is killed leaves no target; what it left beside is removed by the next one.
    """
    with locked(target.with_name(f".{target.name}.lock")):
        if target.exists():
            return False
        partial = target.with_name(f".{target.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(target)
        return True
