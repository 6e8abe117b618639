# SPDX-License-Identifier: GPL-3.0-or-later
"""CBD objects on one host: what to ask the daemon for, so that a transport, backend or blkdev is there or gone. Pure.

The rows are what the daemon's lists return (``cbd.transport.list`` and so on); they come from memory that other hosts write,
so nothing is assumed about a key that is not needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from .cxl_list import parse_serial
from .errors import LabError
from .names import check_name

Row = dict[str, Any]
ENTRIES_MAX = 1024
QUEUES_MAX = 16


@dataclass(frozen=True)
class Call:
    """A method to call on the daemon, and what it does for the user."""

    what: str
    method: str
    params: Row


@dataclass(frozen=True)
class TransportWant:
    """A transport of this name on this memory; ``options`` are the settings of its format that the user chose."""

    name: str
    memory: str
    options: Row = field(default_factory=dict)
    force: bool = False

    @property
    def subject(self) -> str:
        return f"transport {self.name}"


@dataclass(frozen=True)
class BackendWant:
    """A backend on the device or file ``path``; ``id`` None takes a free one."""

    transport: str
    path: str
    id: int | None
    read_only: bool

    @property
    def subject(self) -> str:
        return f"backend {self.path} of transport {self.transport}"


@dataclass(frozen=True)
class BlkdevWant:
    """A block device on this host over the backend with this id; ``name`` "" takes the daemon's choice."""

    transport: str
    backend: int
    queues: int
    frontend: str
    name: str

    @property
    def subject(self) -> str:
        return f"blkdev {self.name or 'on backend ' + str(self.backend)} of transport {self.transport}"


def check_memory(value: str) -> str:
    """ "serial:0x...", a devdax device or another absolute path.

    :raises LabError: for anything else.
    """
    if value.startswith("serial:"):
        parse_serial(value[len("serial:") :])
        return value
    return check_path(value, "memory")


def check_path(value: str, subject: str) -> str:
    """An absolute path.

    :raises LabError: for anything else.
    """
    if value.startswith("/") and value.isprintable() and len(value.encode()) < 256:
        return value
    raise LabError(subject, f"{value!r} is no absolute path", "write for example /dev/dax0.0")


def check_transport(value: str) -> str:
    """The name of a transport.

    :raises LabError: for anything else.
    """
    return check_name(value, "transport")


def check_id(value: int, subject: str) -> int:
    """The number of a backend or blkdev.

    :raises LabError: when no transport has so many.
    """
    if 0 <= value < ENTRIES_MAX:
        return value
    raise LabError(subject, f"{value} is no number of an entry", f"choose 0 to {ENTRIES_MAX - 1}")


def plan_format(want: TransportWant, probe: Row) -> list[Call]:
    """The call that formats the memory; none when the transport lies on it as wanted.

    :param probe: what ``cbd.transport.probe`` says of the memory.
    :raises LabError: without force, when there is something else.
    """
    info = probe.get("info") or {}
    obstacle = ""
    if probe.get("formatted"):
        different = _differences(want.options, info)
        if info.get("name") == want.name and not different:
            return []
        if not info:
            obstacle = f"carries a transport that cannot be read ({probe.get('problem') or 'unknown'})"
        elif info.get("name") != want.name:
            obstacle = f"carries the transport {info.get('name')} ({info.get('uuid')})"
        else:
            obstacle = f"is formatted with {', '.join(different)}"
    elif probe.get("foreign"):
        obstacle = f"carries something that is no transport ({probe.get('problem') or 'unknown bytes'})"
    if obstacle and not want.force:
        raise LabError(want.subject, f"{want.memory} {obstacle}", "set force: true to destroy it", observed=probe)
    params = {"memory": want.memory, "name": want.name, "force": want.force, **want.options}
    return [Call(f"format {want.memory} as transport {want.name}", "cbd.transport.format", params)]


def plan_register(want: TransportWant, rows: list[Row], probe: Row, *, foresee: bool = False) -> list[Call]:
    """The call that joins this host to the transport; none when it takes part.

    :param rows: the transports of this host.
    :param foresee: whether a memory without a transport counts as one that will have it (check mode of a lab that is not built).
    :raises LabError: when the memory holds no such transport, or when the name is taken.
    """
    mine = own_transport(want, rows)
    info = probe.get("info") or {}
    call = Call(f"register this host in transport {want.name}", "cbd.transport.register", {"memory": want.memory})
    if not probe.get("formatted"):
        if foresee:
            return [call]
        raise LabError(want.subject, f"{want.memory} holds no transport", "format it on one host first (state: formatted)")
    if info.get("name") != want.name:
        held = info.get("name") or f"one that cannot be read ({probe.get('problem')})"
        raise LabError(
            want.subject, f"{want.memory} holds transport {held}", "use that name, or format the memory", observed=probe
        )
    if mine and mine.get("path") and mine["path"] != probe.get("path"):
        raise LabError(
            want.subject, f"is registered on {mine['path']}, not on {probe.get('path')}", "unregister it first (state: absent)"
        )
    if mine and mine.get("uuid") != info.get("uuid"):
        raise LabError(
            want.subject, "was formatted again after this host registered", "unregister it first (state: absent)", observed=mine
        )
    if mine and mine.get("state") == "running":
        return []
    return [call]


def plan_unregister(want: TransportWant, rows: list[Row]) -> list[Call]:
    """The call after which this host takes no part in the transport."""
    if own_transport(want, rows) is None:
        return []
    return [Call(f"unregister this host from transport {want.name}", "cbd.transport.unregister", {"transport": want.name})]


def own_transport(want: TransportWant, rows: list[Row]) -> Row | None:
    """The transport of this name that this host registered."""
    return next((row for row in rows if row.get("name") == want.name), None)


def plan_backend(want: BackendWant, rows: list[Row]) -> list[Call]:
    """The call that starts the backend; none when it serves.

    :raises LabError: when the path or the id is in use otherwise.
    """
    mine = own_backend(want, rows)
    if mine:
        if want.id not in (None, mine.get("id")):
            raise LabError(want.subject, f"is backend {mine.get('id')} already, not {want.id}", "stop it first (state: absent)")
        if mine.get("read_only") is not want.read_only:
            mode = "read-only" if mine.get("read_only") else "read-write"
            raise LabError(want.subject, f"is backend {mine.get('id')} already, {mode}", "stop it first (state: absent)")
        if _serves(mine):
            return []
    elif other := next((row for row in rows if row.get("id") == want.id), None):
        owner = f"{other.get('path')} on {other.get('host') or 'this host'}"
        raise LabError(want.subject, f"backend {want.id} is {owner}", "choose another id, or none for a free one", observed=other)
    params = {"transport": want.transport, "path": want.path, "id": want.id, "read_only": want.read_only}
    return [Call(f"start a backend on {want.path}", "cbd.backend.start", params)]


def plan_no_backend(want: BackendWant, rows: list[Row]) -> list[Call]:
    """The call after which this host has no backend on the path."""
    mine = own_backend(want, rows)
    if mine is None:
        return []
    return [Call(f"stop backend {mine['id']}", "cbd.backend.stop", {"transport": want.transport, "id": mine["id"]})]


def own_backend(want: BackendWant, rows: list[Row]) -> Row | None:
    """This host's backend on the path, whatever link names it."""
    real = os.path.realpath(want.path)
    return next((row for row in rows if row.get("local") and os.path.realpath(str(row.get("path", ""))) == real), None)


def plan_blkdev(want: BlkdevWant, rows: list[Row]) -> list[Call]:
    """The call that starts the blkdev; none when its device is there.

    :raises LabError: when this host has it with other settings.
    """
    mine = own_blkdev(want, rows)
    if mine:
        different = [
            f"{key} {has}"
            for key, wanted, has in (
                ("queues", want.queues, mine.get("queues")),
                ("frontend", want.frontend, mine.get("frontend")),
                ("name", want.name, mine.get("name")),
            )
            if wanted not in ("", "auto", has)
        ]
        if different:
            raise LabError(
                want.subject, f"is blkdev {mine.get('id')} already, with {', '.join(different)}", "stop it first (state: absent)"
            )
        if mine.get("device") and _serves(mine):
            return []
    params = {
        "transport": want.transport,
        "backend": want.backend,
        "queues": want.queues,
        "frontend": want.frontend,
        "name": want.name or None,
    }
    return [Call(f"start a blkdev on backend {want.backend}", "cbd.blkdev.start", params)]


def plan_no_blkdev(want: BlkdevWant, rows: list[Row]) -> list[Call]:
    """The call after which this host has no blkdev on the backend."""
    mine = own_blkdev(want, rows)
    if mine is None:
        return []
    return [Call(f"stop blkdev {mine['id']}", "cbd.blkdev.stop", {"transport": want.transport, "id": mine["id"]})]


def own_blkdev(want: BlkdevWant, rows: list[Row]) -> Row | None:
    """This host's blkdev on the backend; a host has at most one on each."""
    return next((row for row in rows if row.get("local") and row.get("backend") == want.backend), None)


def backend_is_ready(backend: int, rows: list[Row]) -> bool:
    """Whether some host serves the backend and is not known to be dead."""
    return any(row.get("id") == backend and row.get("state") == "running" and row.get("alive") is not False for row in rows)


def check_rows(answer: object, method: str) -> list[Row]:
    """The rows of a list method.

    :raises LabError: when it is no list of objects.
    """
    if isinstance(answer, list) and all(isinstance(row, dict) for row in answer):
        return answer
    raise LabError(
        method, "returned no list of objects", "bring the daemon and this collection to matching versions", observed=answer
    )


def _serves(row: Row) -> bool:
    worker = row.get("worker")
    return row.get("state") == "running" and isinstance(worker, dict) and worker.get("state") == "running"


def _differences(options: Row, info: Row) -> list[str]:
    return [f"{key} {info.get(key)}" for key, wanted in sorted(options.items()) if info.get(key) != wanted]
