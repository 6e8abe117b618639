# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that stand in for memory, or for a disk, on a machine without: what to do so that they are there, or gone.

A file is made whole: under its name it has its full size from the first moment, however many hosts of the machine make it at
once. Nothing is ever written into one, and none changes its size.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Sequence

from .device_users import users_of
from .errors import LabError, shown
from .sizes import format_size, parse_size

MODE = 0o600
_PAGE = 4096
_PATH_MAX = 255


@dataclass(frozen=True)
class MemoryFileWant:
    """A file of ``size`` bytes; 0 for a file that is to be gone."""

    path: str
    size: int

    @property
    def subject(self) -> str:
        return f"file {self.path}"


@dataclass(frozen=True)
class MemoryFileState:
    """``kind`` is what lies there ("regular file" or another), "" for nothing; ``owner`` is a user id; ``users`` are phrases of
    who has it open or mapped, as far as that was asked."""

    kind: str
    size: int = 0
    owner: int = -1
    mode: int = 0
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """``act`` is "create", "restrict" or "remove"."""

    act: str
    want: MemoryFileWant

    @property
    def what(self) -> str:
        if self.act == "create":
            return f"create {self.want.path} of {format_size(self.want.size)}"
        return f"restrict {self.want.path} to its owner" if self.act == "restrict" else f"remove {self.want.path}"


def parse_wants(files: Sequence[dict[str, Any]], *, sized: bool) -> list[MemoryFileWant]:
    """Checks what the user asked for.

    :param sized: whether each needs its size.
    :raises LabError: for what is no absolute path, is named twice, or is not n x 4 KiB.
    """
    wants: list[MemoryFileWant] = []
    for file in files:
        path = check_path(file["path"])
        if path in {want.path for want in wants}:
            raise LabError(f"file {path}", "is named twice", "remove one of the entries")
        size = parse_size(file["size"], f"file {path}") if sized else 0
        if size % _PAGE:
            raise LabError(f"file {path}", f"{file['size']} is not a multiple of 4 KiB", 'use for example "64M"')
        wants.append(MemoryFileWant(path, size))
    return wants


def check_path(value: str) -> str:
    """An absolute path in its plain form.

    :raises LabError: for anything else.
    """
    long = len(value.encode(errors="replace")) > _PATH_MAX
    if value == os.path.normpath(value) and value.startswith("/") and value != "/" and value.isprintable() and not long:
        return value
    raise LabError("file", f"{shown(value)} is no plain absolute path", "write for example /dev/shm/pool0")


def observe(want: MemoryFileWant, *, users: bool = False) -> MemoryFileState:
    """What lies under the name; a link is a link.

    :param users: whether to look who uses it, which means looking into every process.
    """
    try:
        found = os.lstat(want.path)
    except (FileNotFoundError, NotADirectoryError):
        return MemoryFileState("")
    except OSError as error:
        raise LabError(want.subject, f"cannot be looked at: {error.strerror}", "run as root") from error
    phrases = users_of(os.path.realpath(want.path)) if users else []
    return MemoryFileState(_kind(found.st_mode), found.st_size, found.st_uid, stat.S_IMODE(found.st_mode), tuple(phrases))


def plan_present(want: MemoryFileWant, have: MemoryFileState, user: int) -> list[Change]:
    """The changes to a file of this size that only its owner can open; none when it is there.

    :param user: id of the user who asks.
    :raises LabError: when something else is there.
    """
    if not have.kind:
        return [Change("create", want)]
    _check_ours(want, have, user)
    if have.size != want.size:
        first = "stop every host that uses it (of a lab without virtual machines: make down, which removes it as well)"
        step = f"write that size; or, if nobody needs what is in it, first {first}, then rm {want.path}"
        raise LabError(want.subject, f"has {format_size(have.size)}, not {format_size(want.size)}", step)
    return [] if have.mode == MODE else [Change("restrict", want)]


def plan_absent(want: MemoryFileWant, have: MemoryFileState, user: int) -> list[Change]:
    """The change after which the file is gone with everything in it.

    :param have: with its users.
    :raises LabError: when something else is there, or while the file is in use.
    """
    if not have.kind:
        return []
    _check_ours(want, have, user)
    if have.users:
        raise LabError(want.subject, f"is in use: {', '.join(have.users)}", "stop what uses it")
    return [Change("remove", want)]


def apply(change: Change) -> None:
    """Makes the change. A file that another process makes or removes at the same moment counts as made or removed.

    :raises LabError: with the system's reason.
    """
    try:
        if change.act == "create":
            _create(Path(change.want.path), change.want.size)
        elif change.act == "restrict":
            _restrict(change.want.path)
        else:
            Path(change.want.path).unlink(missing_ok=True)
    except OSError as error:
        raise LabError(change.want.subject, f"cannot {change.what}: {error.strerror}", "run as root, or make room") from error


def foresee(change: Change, have: MemoryFileState, user: int) -> MemoryFileState:
    """The state after the change."""
    if change.act == "create":
        return MemoryFileState("regular file", change.want.size, user, MODE)
    return replace(have, mode=MODE) if change.act == "restrict" else MemoryFileState("")


def describe(want: MemoryFileWant, have: MemoryFileState) -> dict[str, Any] | None:
    """What a module returns of the file; None when there is nothing."""
    if not have.kind:
        return None
    return {"path": want.path, "kind": have.kind, "size": have.size, "mode": f"{have.mode:04o}"}


def _create(path: Path, size: int) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    number = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        os.fchmod(number, MODE)
        os.ftruncate(number, size)
        # Unlike a rename, a link never takes the place of a file.
        with contextlib.suppress(FileExistsError):
            os.link(partial, path, follow_symlinks=False)
    finally:
        os.close(number)
        partial.unlink()


def _restrict(path: str) -> None:
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(number, MODE)
    finally:
        os.close(number)


def _check_ours(want: MemoryFileWant, have: MemoryFileState, user: int) -> None:
    if have.kind != "regular file":
        raise LabError(want.subject, f"is a {have.kind}", "choose another path, or remove it yourself if nobody needs it")
    if have.owner != user:
        raise LabError(want.subject, f"belongs to user {have.owner}, not to {user}", "choose another path, or remove it yourself")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFREG: "regular file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "symbolic link",
        stat.S_IFBLK: "block device",
        stat.S_IFCHR: "character device",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")
