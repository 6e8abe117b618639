# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts of a CBD transport that died: what a survivor asks its daemon for, so that their backends serve again and nothing of them
is left. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import cbd_backend
from .cbd import Call, Row, Seen, check_distinct, check_host, check_id, check_path, check_transport, listed, when_dead
from .cbd_backend import BackendWant
from .errors import LabError

#: What a module shows of a host before and after.
SHOWN = ("transport", "id", "name", "state", "alive", "fenced")


@dataclass(frozen=True)
class HostWant:
    """The dead host of this name, in one transport or ("") in all of this host's.

    ``paths`` leads from numbers of its backends to what this host has instead of the device in the entry.
    """

    name: str
    state: str
    transport: str = ""
    paths: dict[int, str] = field(default_factory=dict)
    force: bool = False

    @property
    def subject(self) -> str:
        return f"host {self.name} of transport {self.transport}" if self.transport else f"host {self.name}"

    @property
    def wanted(self) -> Row | None:
        """What will be left: nothing."""
        return None


def parse(item: Row) -> HostWant:
    """Checks an entry of the user's list.

    :raises LabError: for a name, a number or a path that cannot be.
    """
    paths = {}
    for number, path in (item["paths"] or {}).items():
        if not str(number).isdecimal() or not isinstance(path, str):
            raise LabError("paths", f"{number}: {path} is no number and path", 'write for example {"0": /dev/sdb}')
        paths[check_id(int(number), "backend")] = check_path(path, f"backend {number}")
    transport = check_transport(item["transport"]) if item["transport"] else ""
    return HostWant(check_host(item["name"]), item["state"], transport, paths, item["force"])


def check(wants: list[HostWant]) -> None:
    """Checks the entries against each other.

    :raises LabError: when two mean one host in one transport.
    """
    everywhere = {want.name for want in wants if not want.transport}
    check_distinct((want.subject, (want.name, "" if want.name in everywhere else want.transport)) for want in wants)


def plan(want: HostWant, seen: Seen, foresee: bool) -> list[Call]:
    """The calls after which the transports know nothing of the host; none when they do not.

    :raises LabError: for this host itself, and for a path that belongs to none of its backends.
    """
    if want.transport:
        listed(seen, want.transport, "host", need=not foresee)
    _check_paths(want, seen)
    return [call for transport in _transports(want, seen) for call in _plan_in(transport, want, seen, foresee)]


def find(want: HostWant, seen: Seen) -> list[Row]:
    """The entries of the host."""
    return [row for transport in _transports(want, seen) for row in _entries(want, transport, seen)]


def _transports(want: HostWant, seen: Seen) -> list[str]:
    return [want.transport] if want.transport else [str(row.get("name")) for row in seen["transports"]]


def _entries(want: HostWant, transport: str, seen: Seen) -> list[Row]:
    return [row for row in listed(seen, transport, "host") if row.get("name") == want.name]


def _plan_in(transport: str, want: HostWant, seen: Seen, foresee: bool) -> list[Call]:
    calls = []
    for row in listed(seen, transport, "backend") if want.state == "recovered" else []:
        if row.get("host") == want.name and not row.get("local"):
            moved = BackendWant(transport, "recovered", want.paths.get(row.get("id", -1), ""), row.get("id"))
            calls += cbd_backend.plan(moved, seen, foresee)
    for row in _entries(want, transport, seen):
        if row.get("local"):
            raise LabError(want.subject, "is this host itself", "run this on a host that survived", observed=row)
        params = {"transport": transport, "id": row.get("id"), "force": want.force}
        call = Call(f"clear host {want.name} out of transport {transport}", "cbd.host.clear", params)
        calls.append(when_dead(call, {"host": want.name, **row}, f"transport {transport}"))
    return calls


def _check_paths(want: HostWant, seen: Seen) -> None:
    """A path for a backend that is neither the dead host's nor here already is a mistake."""
    known = {
        row.get("id")
        for transport in _transports(want, seen)
        for row in listed(seen, transport, "backend")
        if row.get("local") or row.get("host") == want.name
    }
    strangers = sorted(set(want.paths) - known)
    if strangers and want.state == "recovered":
        raise LabError(want.subject, f"has no backend {strangers[0]}", "correct paths; look for the numbers with cbd_info")
