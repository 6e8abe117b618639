# SPDX-License-Identifier: GPL-3.0-or-later
"""CBD transports: what to ask the daemon for, so that one is formatted, registered or left. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from . import cbd
from .cbd import ENTRIES_MAX, Call, Row, Seen, check_distinct, check_memory, check_number, check_transport
from .errors import LabError
from .sizes import parse_size

#: Whole numbers among the settings of a format, with what is possible.
_RANGES = {
    "hosts": (1, ENTRIES_MAX),
    "backends": (1, ENTRIES_MAX),
    "blkdevs": (1, ENTRIES_MAX),
    "channels": (1, 4096),
    "ring_depth": (2, 1024),
    "lease_ms": (1000, 600_000),
}
_SLOT = 4096
_LEAVE = (
    "stop what it has in it and unregister it (state: absent; of the role on all hosts: cbd_state: absent), then run this again: "
    'docs/cbd.md, "A transport that was lost"'
)
#: What a module shows of a transport before and after.
SHOWN = ("name", "memory", "path", "state", *_RANGES, "slot_bytes", "coherence", "data_crc")


@dataclass(frozen=True)
class TransportWant:
    """A transport of this name on this memory; ``geometry`` are the settings of its format that the user chose."""

    name: str
    memory: str
    state: str
    geometry: Row = field(default_factory=dict)
    force: bool = False

    @property
    def subject(self) -> str:
        return f"transport {self.name}"

    @property
    def wanted(self) -> Row | None:
        """What the transport will be, as far as that is known; None for none."""
        made = {"name": self.name, "memory": self.memory}
        return {"formatted": {**made, **self.geometry}, "registered": {**made, "state": "running"}}.get(self.state)


def parse(item: Row) -> TransportWant:
    """Checks an entry of the user's list.

    :raises LabError: for a name, a memory or a setting that cannot be.
    """
    chosen = {key: value for key, value in (item["geometry"] or {}).items() if value is not None}
    subject = f"transport {item['name']}: "
    for key, (low, high) in _RANGES.items():
        if key in chosen:
            check_number(chosen[key], subject + key, low, high)
    depth = chosen.get("ring_depth", 2)
    if depth & (depth - 1):
        raise LabError(f"{subject}ring_depth", f"{depth} is no power of two", "choose for example 64")
    if "slot_bytes" in chosen:
        chosen["slot_bytes"] = size = parse_size(chosen["slot_bytes"], f"{subject}slot_bytes")
        if size % _SLOT or size > 1 << 20:
            raise LabError(f"{subject}slot_bytes", f"{size} is not possible", "choose a multiple of 4K, at most 1M")
    memory = check_memory(item["memory"]) if item["memory"] else ""
    return TransportWant(check_transport(item["name"]), memory, item["state"], chosen, item["force"])


def check(wants: list[TransportWant]) -> None:
    """Checks the entries against each other.

    :raises LabError: when two have one name or one memory.
    """
    check_distinct((want.subject, want.name) for want in wants)
    check_distinct((want.subject, os.path.realpath(want.memory)) for want in wants if want.memory)


def is_missing(error: LabError) -> bool:
    """Whether the daemon says that the memory is not there, rather than that something is wrong with it."""
    return isinstance(error.observed, dict) and error.observed.get("code") == "not_found"


def unmade(memory: str) -> Row:
    """What ``cbd.transport.probe`` will say of a memory that is not there yet: there is nothing on it. Which device a serial
    number will have nobody knows."""
    path = os.path.realpath(memory) if memory.startswith("/") else None
    return {"memory": memory, "path": path, "formatted": False, "foreign": False, "problem": None, "info": None}


def say_who_makes(memory: str, error: LabError) -> LabError:
    """The daemon's error of a memory that is not there, with the playbook that makes it."""
    phase = "dcd" if memory.startswith("dcd:") else "memory"
    play = f"ansible-playbook -i INVENTORY playbooks/{phase}.yml (or site.yml) makes the memory that the inventory has"
    step = f"{error.next_step}; {play}" if error.next_step else play
    return LabError(error.subject, error.problem, step, observed=error.observed)


def plan(want: TransportWant, seen: Seen, foresee: bool) -> list[Call]:
    """The calls that bring the transport to its state; none when it is there.

    :param seen: each transport with what is in it; also ``probes``: what ``cbd.transport.probe`` says of each memory.
    :param foresee: whether a memory without a transport counts as one that will have it (check mode of a lab that is not built).
    :raises LabError: when the memory holds something else, or the name is taken.
    """
    if want.state == "formatted":
        return _format(want, seen)
    if want.state == "registered":
        return _register(want, _own(want, seen), seen["probes"][want.memory], foresee)
    return _unregister(want, _own(want, seen))


def find(want: TransportWant, seen: Seen) -> list[Row]:
    """The transport: as it lies on the memory where that is to be formatted, else as this host is registered in it."""
    if want.state == "formatted":
        probe = seen["probes"][want.memory]
        info = probe.get("info")
        return [{"memory": probe.get("memory"), "path": probe.get("path"), **info}] if info else []
    mine = _own(want, seen)
    return [{key: value for key, value in mine.items() if not key.endswith("_list")}] if mine else []


def _own(want: TransportWant, seen: Seen) -> Row | None:
    return next((row for row in seen["transports"] if row.get("name") == want.name), None)


def without(transports: list[Row], leaving: dict[str, list[Row]]) -> list[Row]:
    """The transports as they are once this host stopped what ``leaving`` lists, as "backends" and "blkdevs"."""
    for kind in ("backend", "blkdev"):
        transports = cbd.without(transports, leaving.get(f"{kind}s", []), kind, local=True)
    return transports


def _unregister(want: TransportWant, mine: Row | None) -> list[Call]:
    """What this host lost there goes with it; anything else has to be stopped first."""
    if mine is None:
        return []
    rows = [(kind, row) for kind in ("blkdev", "backend") for row in mine.get(f"{kind}_list") or [] if row.get("local")]
    own = [(kind, row) for kind, row in rows if row.get("id") is not None]  # a device that was forgotten is in no transport
    held = [f"{kind} {row.get('id')} ({row.get('path') or row.get('name')})" for kind, row in own if row.get("state") != "lost"]
    if held:
        raise LabError(want.subject, f"this host has {', '.join(held)} in it", "stop them first (state: absent)", observed=mine)
    lost = [f"{kind} {row.get('id')}" for kind, row in own]
    what = f"unregister this host from transport {want.name}" + (f", and forget its lost {', '.join(lost)}" if lost else "")
    return [Call(what, "cbd.transport.unregister", {"transport": want.name})]


def _check_left(want: TransportWant, seen: Seen) -> None:
    """Refuses what the daemon would: a format of a memory in which this host is registered, whatever became of the transport."""
    probe = seen["probes"][want.memory]
    for row in seen["transports"]:
        same = row.get("memory") == want.memory or (row.get("path") and row["path"] == probe.get("path"))
        if same and probe != unmade(want.memory):  # what will be on a memory that is to be made nobody knows
            raise LabError(want.subject, f"this host is registered in {row.get('name')} on {want.memory}", _LEAVE, observed=row)


def _format(want: TransportWant, seen: Seen) -> list[Call]:
    probe = seen["probes"][want.memory]
    info = probe.get("info") or {}
    obstacle = ""
    if probe.get("formatted"):
        different = [f"{key} {info.get(key)}" for key, wanted in sorted(want.geometry.items()) if info.get(key) != wanted]
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
    _check_left(want, seen)
    params = {"memory": want.memory, "name": want.name, "force": want.force, **want.geometry}
    return [Call(f"format {want.memory} as transport {want.name}", "cbd.transport.format", params)]


def _register(want: TransportWant, mine: Row | None, probe: Row, foresee: bool) -> list[Call]:
    info = probe.get("info") or {}
    call = Call(f"register this host in transport {want.name}", "cbd.transport.register", {"memory": want.memory})
    if mine and mine.get("path") and probe.get("path") and mine["path"] != probe["path"]:
        raise LabError(
            want.subject, f"is registered on {mine['path']}, not on {probe['path']}", "unregister it first (state: absent)"
        )
    if not probe.get("formatted"):
        if mine and probe != unmade(want.memory):
            raise LabError(want.subject, f"is not on {want.memory} any more, and this host is in it", _LEAVE, observed=mine)
        if foresee:
            return [call]
        raise LabError(want.subject, f"{want.memory} holds no transport", "format it on one host first (state: formatted)")
    if info.get("name") != want.name:
        held = info.get("name") or f"one that cannot be read ({probe.get('problem')})"
        raise LabError(
            want.subject, f"{want.memory} holds transport {held}", "use that name, or format the memory", observed=probe
        )
    if mine and mine.get("uuid") != info.get("uuid"):
        raise LabError(want.subject, "was formatted again after this host registered", _LEAVE, observed=mine)
    return [] if mine and mine.get("state") == "running" else [call]
