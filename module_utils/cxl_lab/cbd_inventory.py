# SPDX-License-Identifier: GPL-3.0-or-later
"""Do the lists of the role cbd fit together? What no daemon sees before it is too late, because each host looks at its share
only. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any, Callable, Hashable, Iterable, Mapping, Sequence

from .errors import shown

Entry = Mapping[str, Any]
_NUMBERS = ("id", "backend")
_NAMES = ("name", "transport", "host", "format_on", "memory", "path")


def check(lists: Mapping[str, Sequence[Entry]], inventory_hosts: Iterable[str]) -> list[str]:
    """Every problem as "variable: what; fix". Empty when the lists can be carried out.

    :param lists: the entries by variable of the role ("cbd_backends").
    :param inventory_hosts: all that the inventory has.
    """
    if problems := list(_check_shapes(lists)):
        return problems
    lists = {variable: [_with_numbers(entry) for entry in entries] for variable, entries in lists.items()}
    return [
        *_check_hosts(lists, set(inventory_hosts)),
        *_check_transports(lists.get("cbd_transports", [])),
        *_check_backends(_staying(lists.get("cbd_backends", []))),
        *_check_blkdevs(_staying(lists.get("cbd_blkdevs", []))),
        *_check_members(lists),
        *_check_writers(_staying(lists.get("cbd_blkdevs", []))),
        *_check_timeouts(_staying(lists.get("cbd_blkdevs", [])), lists.get("cbd_transports", [])),
        *_check_users(_staying(lists.get("cbd_blkdevs", [])), _staying(lists.get("cbd_backends", []))),
    ]


def _check_shapes(lists: Mapping[str, Sequence[Entry]]) -> Iterable[str]:
    """What Ansible turns into the right type when it looks at the arguments of the role, and hands on as it was written."""
    for variable, entries in lists.items():
        for entry in entries:
            for key in entry:
                if why := _misshapen(key, entry[key]):
                    yield f"{variable}: {key} is {shown(entry[key])}; write {why}"


def _misshapen(key: str, value: Any) -> str:
    """What the value should be; empty when it is."""
    if key in _NUMBERS and (isinstance(value, bool) or not (isinstance(value, int) or re.fullmatch("-?[0-9]{1,18}", str(value)))):
        return "a whole number"
    if key in _NAMES and value is not None and not isinstance(value, str):
        return "one name, as text"
    names = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    return "" if key != "hosts" or names else "a list of names: [node1, node2]"


def _with_numbers(entry: Entry) -> Entry:
    """A number that is written as text means the same."""
    return {key: int(value) if key in _NUMBERS else value for key, value in entry.items()}


def _staying(entries: Iterable[Entry]) -> list[Entry]:
    """Without those that go: a number is free for another host then."""
    return [entry for entry in entries if entry.get("state") != "absent"]


def _check_hosts(lists: Mapping[str, Sequence[Entry]], known: set[str]) -> Iterable[str]:
    for variable, entries in lists.items():
        named = {
            name for entry in entries for name in [entry.get("host"), entry.get("format_on"), *entry.get("hosts", [])] if name
        }
        for name in sorted(named - known):
            yield f"{variable}: host {name} is no host of the inventory; correct the name"


def _check_transports(transports: Iterable[Entry]) -> Iterable[str]:
    for (name,), entries in _twice(transports, lambda entry: (entry["name"],)):
        memories = " and ".join(str(entry["memory"]) for entry in entries)
        yield f"cbd_transports: {len(entries)} transports have the name {name} ({memories}); give each its own"


def _check_backends(backends: Sequence[Entry]) -> Iterable[str]:
    for (transport, number), entries in _twice(backends, lambda entry: (entry["transport"], entry["id"])):
        which = ", ".join(f"{entry.get('path') or 'what it takes over'} on {entry['host']}" for entry in entries)
        yield f"cbd_backends: {len(entries)} backends of transport {transport} have the id {number} ({which}); give each its own"
    media = [entry for entry in backends if entry.get("path")]
    for (host, path), entries in _twice(media, lambda entry: (entry["host"], entry["path"])):
        which = ", ".join(f"backend {entry['id']} of transport {entry['transport']}" for entry in entries)
        yield f"cbd_backends: {path} on {host} is given away {len(entries)} times ({which}); keep one of them"


def _check_blkdevs(blkdevs: Sequence[Entry]) -> Iterable[str]:
    named = [entry for entry in blkdevs if entry.get("name")]
    for (host, name), entries in _twice(named, lambda entry: (entry["host"], entry["name"])):
        which = ", ".join(f"on backend {entry['backend']} of transport {entry['transport']}" for entry in entries)
        yield f"cbd_blkdevs: {len(entries)} blkdevs of {host} have the name {name} ({which}); give each its own"
    for (host, transport, backend), entries in _twice(
        blkdevs, lambda entry: (entry["host"], entry["transport"], entry["backend"])
    ):
        if not all(entry.get("name") for entry in entries):
            what = f"{host} has {len(entries)} blkdevs on backend {backend} of transport {transport}, not all with a name"
            yield f"cbd_blkdevs: {what}; give each its own"


def _check_members(lists: Mapping[str, Sequence[Entry]]) -> Iterable[str]:
    """A transport of the list is registered on the hosts that it names, and on no others. Other transports somebody else has."""
    members = {entry["name"]: entry["hosts"] for entry in lists.get("cbd_transports", [])}
    for variable in ("cbd_backends", "cbd_blkdevs"):
        pairs = {(entry["transport"], entry["host"]) for entry in _staying(lists.get(variable, []))}
        for transport, host in sorted(pairs, key=str):
            if host not in members.get(transport, [host]):
                have = ", ".join(members[transport])
                yield (
                    f"{variable}: {host} is not registered in transport {transport} (cbd_transports has {have}); "
                    f"add {host} to its hosts, or correct the name"
                )


def _check_users(blkdevs: Iterable[Entry], backends: Iterable[Entry]) -> Iterable[str]:
    """A list that has backends of a transport has all; of one without any somebody else may start them."""
    known = defaultdict(set)
    for entry in backends:
        known[entry["transport"]].add(entry["id"])
    for entry in blkdevs:
        ids = known[entry["transport"]]
        if ids and entry["backend"] not in ids:
            which = f"{_device(entry)} is on backend {entry['backend']}"
            have = ", ".join(map(str, sorted(ids)))
            yield (
                f"cbd_blkdevs: {which} of transport {entry['transport']}, which cbd_backends does not start (it starts {have}); "
                "correct the number, or add the backend"
            )


def _check_writers(blkdevs: Iterable[Entry]) -> Iterable[str]:
    """What the daemon of the second one would refuse when the first is there already."""
    writers = [entry for entry in blkdevs if not _is_true(entry.get("read_only"))]
    for (transport, backend), entries in _twice(writers, lambda entry: (entry["transport"], entry["backend"])):
        if not all(_is_true(entry.get("shared")) for entry in entries):
            which = ", ".join(map(_device, entries))
            yield (
                f"cbd_blkdevs: backend {backend} of transport {transport} has several writers ({which}), not all shared; "
                "keep one of them, or make the others read_only, or all of them shared"
            )


def _check_timeouts(blkdevs: Iterable[Entry], transports: Iterable[Entry]) -> Iterable[str]:
    """Where the list says the lease; that of a transport which is there its daemons know."""
    chosen = {entry["name"]: entry["geometry"] for entry in transports if isinstance(entry.get("geometry"), Mapping)}
    leases = {name: _whole(geometry.get("lease_ms")) for name, geometry in chosen.items()}
    for entry in blkdevs:
        timeout, lease_ms = _whole(entry.get("io_timeout")), leases.get(entry["transport"])
        if timeout is not None and lease_ms is not None and timeout * 1000 < lease_ms:
            what = f"{_device(entry)} has an io_timeout of {timeout} s"
            lease = f"below the lease of transport {entry['transport']}, {lease_ms / 1000:g} s"
            yield f"cbd_blkdevs: {what}, {lease}; choose at least {-(-lease_ms // 1000)}, or none"


def _device(entry: Entry) -> str:
    return f"{entry.get('name') or 'a blkdev'} of {entry['host']}"


def _is_true(value: object) -> bool:
    """A switch as Ansible reads it."""
    return str(value).lower() in ("true", "yes", "on", "y", "t", "1", "1.0")


def _whole(value: object) -> int | None:
    """A number, also one that is written as text; what else is there the arguments of the role refuse."""
    return int(str(value)) if re.fullmatch("[0-9]{1,9}", str(value)) else None


def _twice(
    entries: Iterable[Entry], key: Callable[[Entry], tuple[Hashable, ...]]
) -> Iterable[tuple[tuple[Any, ...], list[Entry]]]:
    """The entries that have one key, where they are several."""
    groups: dict[tuple[Hashable, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return [(name, group) for name, group in groups.items() if len(group) > 1]
