# SPDX-License-Identifier: GPL-3.0-or-later
"""kmem_blk pools: what to ask the daemon for, so that one is formatted, serves with limits and devices, or stops. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from .cbd import Call, Row, Seen, check_distinct, check_memory, check_number
from .cxl_list import parse_serial
from .errors import LabError
from .names import check_name
from .sizes import parse_size

PAGE = 4096
QUEUES_MAX = 16
PRIORITY_MAX = 32767
PAGES_MAX = (1 << 32) - 1
SWAP_MIN = 1 << 20
#: Names that sockets of the daemon have.
RESERVED = ("control", "lun")
#: What a module shows of a pool before and after.
SHOWN = ("name", "state", "memories", "reserve", "lease_limit", "lease_group", "recall_ms", "volume", "swap")
_VOLUME = ("name", "frontend", "queues")


@dataclass(frozen=True)
class PoolWant:
    """A pool of this name on ``memories``, of which the first one is formatted. Numbers of pages; ``volume`` and ``swap`` as the
    daemon's methods take them, None for none."""

    name: str
    memories: tuple[str, ...]
    state: str
    limits: Row = field(default_factory=dict)
    format: Row = field(default_factory=dict)
    volume: Row | None = None
    swap: Row | None = None

    @property
    def subject(self) -> str:
        return f"pool {self.name}"

    @property
    def wanted(self) -> Row | None:
        """What the pool will be, as far as that is known; None for none."""
        if self.state == "absent":
            return None
        made: Row = {"name": self.name, "memories": list(self.memories), "state": "running", **self.limits}
        return {**made, "volume": self.volume, "swap": self.swap}


def parse(item: Row) -> PoolWant:
    """Checks an entry of the user's list.

    :raises LabError: for a name, a memory, a size or a number that cannot be.
    """
    subject = f"pool {item['name']}: "
    if item["state"] == "present" and not item["memories"]:
        raise LabError(f"pool {item['name']}", "has no memories", "name at least the one that is formatted")
    if item["lease_group"] == "":
        raise LabError(f"{subject}lease_group", "is empty", "name a group, or leave it out")
    limits = {key: _pages(item[key], subject + key) for key in ("reserve", "lease_limit")}
    check_number(item["recall_ms"], f"{subject}recall_ms", 0, 60000)
    limits |= {"lease_group": item["lease_group"], "recall_ms": item["recall_ms"]}
    check_number(item["spare"], f"{subject}spare", 1, 4096)
    made = {"thick": item["thick"], "spare": item["spare"], "force": item["force"]}
    return PoolWant(
        check_name(item["name"], "pool"),
        tuple(_memory(memory) for memory in item["memories"] or ()),
        item["state"],
        limits,
        made,
        _volume(item["volume"], subject),
        _swap(item["swap"], subject),
    )


def _memory(value: str) -> str:
    """A memory, or a mapping of dynamic capacity: "dcd:<serial number>/<name of the mapping>"."""
    if not value.startswith("dcd:"):
        return check_memory(value)
    serial, _, mapping = value[len("dcd:") :].partition("/")
    parse_serial(serial)
    check_name(mapping, "mapping")
    return value


def _pages(value: Any, subject: str) -> int:
    """Pages of a size; "0" is none."""
    size = 0 if value in (None, "", "0", 0) else parse_size(value, subject)
    if size % PAGE:
        raise LabError(subject, f"{size} bytes are no whole pages", f"choose a multiple of {PAGE}")
    check_number(size // PAGE, f"{subject}, pages", 0, PAGES_MAX)
    return size // PAGE


def _volume(item: Row | None, subject: str) -> Row | None:
    if item is None:
        return None
    check_number(item["queues"], f"{subject}queues", 1, QUEUES_MAX)
    if item["name"] in RESERVED:
        raise LabError(f"{subject}volume", f"{item['name']!r} is reserved", "choose another name")
    return {"name": check_name(item["name"], "volume"), "frontend": item["frontend"], "queues": item["queues"]}


def _swap(item: Row | None, subject: str) -> Row | None:
    if item is None:
        return None
    check_number(item["priority"], f"{subject}priority", 0, PRIORITY_MAX)
    size = _pages(item["size"], f"{subject}swap") * PAGE
    check_number(size, f"{subject}swap, bytes", SWAP_MIN, PAGES_MAX * PAGE)
    return {"size": size, "priority": item["priority"]}


def check(wants: list[PoolWant]) -> None:
    """Checks the entries against each other.

    :raises LabError: when two have one name, one memory or one device.
    """
    check_distinct((want.subject, want.name) for want in wants)
    check_distinct((f"memory {memory}", os.path.realpath(memory)) for want in wants for memory in want.memories)
    check_distinct((f"device {name} of {want.subject}", name) for want in wants for name in _device_names(want))


def _device_names(want: PoolWant) -> list[str]:
    """What will be under ``/dev``, or be a socket."""
    wanted = want.state == "present"
    volume = [want.volume["name"]] if wanted and want.volume else []
    return [*volume, *([f"{want.name}-swap"] if wanted and want.swap else [])]


def find(want: PoolWant, seen: Seen) -> list[Row]:
    """The pool of this host that is meant."""
    return [row for row in seen["pools"] if row.get("name") == want.name]


def plan(want: PoolWant, seen: Seen, foresee: bool) -> list[Call]:
    """The calls that bring the pool to its state; none when it is there.

    :param seen: ``pools`` of this host, and ``probes``: what ``kmem_blk.pool.probe`` says of memories of those that do not run.
    :param foresee: not needed: memory that is not there yet cannot be probed.
    :raises LabError: when the memory holds something else, or the pool runs in another way.
    """
    mine = next(iter(find(want, seen)), None)
    if want.state == "absent":
        return _stop(want, mine) if mine else []
    if mine is None:
        return [*_bring_up(want, [seen["probes"][memory] for memory in want.memories]), *_devices(want, {})]
    if mine.get("memories", [])[:1] != [want.memories[0]]:
        raise LabError(
            want.subject, f"runs on {mine.get('memories')}, not on {want.memories[0]}", "stop it first (state: absent)"
        )
    return [*_ranges(want, mine), *_adjust(want, mine), *_devices(want, mine)]


def _format(want: PoolWant, probe: Row) -> list[Call]:
    info = probe.get("info") or {}
    if info.get("name") == want.name:
        return []
    obstacle = f"carries {probe['foreign']}" if probe.get("foreign") else ""
    if probe.get("formatted"):
        obstacle = f"carries the pool {info.get('name') or probe.get('problem')}"
    if obstacle and not want.format["force"]:
        raise LabError(want.subject, f"{want.memories[0]} {obstacle}", "set force: true to destroy it", observed=probe)
    params = {"memory": want.memories[0], "name": want.name, **want.format}
    return [Call(f"format {want.memories[0]} as pool {want.name}", "kmem_blk.pool.format", params)]


def _bring_up(want: PoolWant, probes: list[Row]) -> list[Call]:
    """Starts the pool with the memories that belong to it, then adds the others."""
    formats = _format(want, probes[0])
    uuid = None if formats else (probes[0].get("info") or {}).get("uuid")
    theirs = [probe.get("range_of") == uuid and uuid is not None for probe in probes[1:]]
    ours = [memory for memory, belongs in zip(want.memories[1:], theirs) if belongs]
    others = [memory for memory in want.memories[1:] if memory not in ours]
    grow = [_grow(want, memory, want.format["force"]) for memory in others]
    return [*formats, _start(want, [want.memories[0], *ours]), *grow]


def _start(want: PoolWant, memories: list[str]) -> Call:
    return Call(f"start pool {want.name}", "kmem_blk.pool.start", {"memories": memories, **want.limits})


def _adjust(want: PoolWant, mine: Row) -> list[Call]:
    same = all(mine.get(key) == value for key, value in want.limits.items())
    staying = [memory for memory in mine["memories"] if memory in want.memories]  # the others were given back just before
    return [] if same and mine.get("state") == "running" else [_start(want, staying)]


def _ranges(want: PoolWant, mine: Row) -> list[Call]:
    have = mine.get("memories", [])
    # A volatile memory that went with a power cut is wanted still, and no part of the pool any more.
    parts = [each["memory"] for each in mine.get("ranges", [])] or have
    force = want.format["force"]
    grow = [memory for memory in want.memories if memory not in parts]
    shrink = [memory for memory in have if memory not in want.memories]
    return [
        *(_grow(want, memory, force) for memory in grow),
        *(
            Call(
                f"give {memory} of pool {want.name} back",
                "kmem_blk.pool.shrink",
                {"pool": want.name, "memory": memory, "move": True},
            )
            for memory in shrink
        ),
    ]


def _grow(want: PoolWant, memory: str, force: bool) -> Call:
    return Call(f"add {memory} to pool {want.name}", "kmem_blk.pool.grow", {"pool": want.name, "memory": memory, "force": force})


def _devices(want: PoolWant, mine: Row) -> list[Call]:
    """What goes comes first: its pages may be needed."""
    return [*_swap_calls(want, mine), *_volume_calls(want, mine)]


def _volume_calls(want: PoolWant, mine: Row) -> list[Call]:
    have = mine.get("volume")
    same = have is not None and {key: have.get(key) for key in _VOLUME} == want.volume
    return _change(want, "volume", have, want.volume, same)


def _swap_calls(want: PoolWant, mine: Row) -> list[Call]:
    have = mine.get("swap")
    shape = have is not None and {"size": have.get("blocks", 0) * PAGE, "priority": have.get("priority")}
    return _change(want, "swap", have, want.swap, shape == want.swap)


def _change(want: PoolWant, what: str, have: Row | None, wanted: Row | None, same: bool) -> list[Call]:
    stop = Call(f"stop the {what} of pool {want.name}", f"kmem_blk.{what}.stop", {"pool": want.name})
    if wanted is None:
        return [stop] if have else []
    start = Call(f"start the {what} of pool {want.name}", f"kmem_blk.{what}.start", {"pool": want.name, **wanted})
    if have is None:
        return [start]
    if not same:
        return [stop, start]
    runs = isinstance(have.get("worker"), dict) and have["worker"].get("state") == "running"
    return [] if runs else [start]


def _stop(want: PoolWant, mine: Row) -> list[Call]:
    calls = [
        Call(f"stop the {what} of pool {want.name}", f"kmem_blk.{what}.stop", {"pool": want.name})
        for what in ("swap", "volume")
        if mine.get(what)
    ]
    return [*calls, Call(f"stop pool {want.name}", "kmem_blk.pool.stop", {"pool": want.name})]
