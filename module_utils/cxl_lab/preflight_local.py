# SPDX-License-Identifier: GPL-3.0-or-later
"""Will this machine carry hosts that are its processes? Everything that can be known before anything is changed, at once."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Mapping, Sequence

from .errors import LabError
from .memory_file import MemoryFileState, MemoryFileWant, observe, plan_present
from .sizes import format_size

#: Bytes of a unix socket's path, less the NUL that ends it.
SOCKET_PATH_MAX = 107
_SOCKET = "control.sock"
_RUNTIME_DIR_MAX = SOCKET_PATH_MAX - len(f"/{_SOCKET}")


@dataclass(frozen=True)
class LocalHost:
    """A host: its name in the transports and the folders of its daemon."""

    name: str
    runtime_dir: str
    state_dir: str


@dataclass(frozen=True)
class LocalMachine:
    """What the machine has; a record so that the checks are pure.

    :param root: whether the hosts' tasks get root's rights.
    :param user: id of the user that they run as.
    :param look: tells what lies under the path of a file.
    :param room: tells the file system of a path that may not be there yet, and the bytes free in it.
    """

    root: bool
    user: int
    look: Callable[[MemoryFileWant], MemoryFileState]
    room: Callable[[str], tuple[int, int]]


def check(hosts: Sequence[LocalHost], files: Sequence[MemoryFileWant], machine: LocalMachine) -> list[str]:
    """Every problem as "variable or object: what; fix". Empty when the hosts can be started."""
    return [*_check_rights(machine), *_check_hosts(hosts), *_check_files(files, machine)]


def _check_rights(machine: LocalMachine) -> Iterable[str]:
    if not machine.root:
        yield "rights: the hosts' tasks need root; run as root, or as a user who may use sudo without a password"


def _check_hosts(hosts: Sequence[LocalHost]) -> Iterable[str]:
    for what in ("name", "runtime_dir", "state_dir"):
        for value, times in Counter(getattr(host, what) for host in hosts).items():
            if times > 1:
                yield f"cxl_datapath_instance: {times} hosts have the {what} {value}; give each its own"
    for host in hosts:
        path = f"{host.runtime_dir}/{_SOCKET}"
        if len(path.encode()) > SOCKET_PATH_MAX:
            yield f"cxl_datapath_instance: {path} is too long for a socket; use a runtime_dir of at most {_RUNTIME_DIR_MAX} bytes"


def _check_files(files: Sequence[MemoryFileWant], machine: LocalMachine) -> Iterable[str]:
    need: Counter[int] = Counter()
    free: dict[int, tuple[str, int]] = {}
    for want in files:
        try:
            changes = plan_present(want, machine.look(want), machine.user)
        except LabError as error:
            yield f"cxl_memory_files: {error}"
            continue
        if any(change.act == "create" for change in changes):
            filesystem, room = machine.room(want.path)
            need[filesystem] += want.size
            free[filesystem] = (str(Path(want.path).parent), room)
    for filesystem, size in need.items():
        folder, room = free[filesystem]
        if size > room:
            have = f"{room >> 20}M are free below {folder}"
            yield f"cxl_memory_files: {format_size(size)} needed, {have}; lower the sizes or free some"


def this_machine(root: bool) -> LocalMachine:
    """Looks at the machine that runs this."""
    return LocalMachine(root, 0, observe, _room)


def summary(hosts: Sequence[LocalHost], files: Sequence[MemoryFileWant]) -> Mapping[str, str]:
    """What a person wants to see before it starts."""
    return {
        "hosts": ", ".join(f"{host.name} ({host.runtime_dir})" for host in hosts),
        "files": ", ".join(f"{file.path} ({format_size(file.size)})" for file in files),
    }


def _room(path: str) -> tuple[int, int]:
    folder = next(each for each in Path(path).parents if each.exists())
    found = os.statvfs(folder)
    return folder.stat().st_dev, found.f_bavail * found.f_frsize
