# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plans of CBD objects have in common: the calls that they are made of, checks of what a user wrote, and how the rows of
the daemon are read. Pure.

The rows are what the daemon returns (``status``, ``cbd.transport.list`` and so on); they come from memory that other hosts
write, so nothing is assumed about a key that is not needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Callable, Hashable, Iterable

from .cxl_list import parse_serial
from .errors import LabError, shown
from .names import check_name

Row = dict[str, Any]
#: What a plan looks at: ``transports``, the transports of this host as rows. Those of ``status`` hold what is in each, as
#: ``host_list``, ``backend_list`` and ``blkdev_list``.
Seen = dict[str, Any]
ENTRIES_MAX = 1024
#: Seconds that a call to the daemon may take beside the leases that it waits for.
CALL_S = 120.0
#: A takeover watches the other host for a lease, waits for the claim up to two, and one more after the fence; one is margin.
_LEASES_OF_A_CALL = 5
#: Seconds that a module waits for a backend or for the death of a host, unless the lease makes that longer.
WAIT_S = 120.0
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Call:
    """A method to call on the daemon, and what it does for the user.

    ``waits_for`` is what has to be there first ("" when all is), to follow "waited 30 s for"; ``hint`` says who brings it about.
    ``death_of`` is the host for whose death it waits.
    """

    what: str
    method: str
    params: Row
    waits_for: str = ""
    hint: str = ""
    death_of: str = ""


def check_memory(value: str) -> str:
    """ "serial:0x...", "dcd:0x.../NAME", a devdax device or another absolute path.

    :raises LabError: for anything else.
    """
    if value.startswith("serial:"):
        parse_serial(value[len("serial:") :])
        return value
    if value.startswith("dcd:"):
        serial, _, name = value[len("dcd:") :].partition("/")
        parse_serial(serial)
        check_name(name, "memory")
        return value
    return check_path(value, "memory")


def check_path(value: str, subject: str) -> str:
    """An absolute path, without empty parts and ".", as the daemon shows it.

    :raises LabError: for anything else.
    """
    if value.startswith("/") and value.isprintable() and len(value.encode()) < 256:
        return "/" + "/".join(part for part in value.split("/") if part not in ("", "."))
    raise LabError(subject, f"{shown(value)} is no absolute path", "write for example /dev/dax0.0")


def check_medium(value: str, subject: str) -> str:
    """A device, a file, or "kmem_blk:<pool>" for the blocks of a pool of the host.

    :raises LabError: for anything else.
    """
    prefix, colon, pool = value.partition(":")
    if prefix == "kmem_blk" and colon:
        return f"kmem_blk:{check_name(pool, 'pool')}"
    return check_path(value, subject)


def check_transport(value: str) -> str:
    """The name of a transport.

    :raises LabError: for anything else.
    """
    return check_name(value, "transport")


def check_host(value: str) -> str:
    """The name of a host as it registered, which is its host name and need not be one of ours.

    :raises LabError: for what no host can be called.
    """
    if _HOST_NAME.fullmatch(value):
        return value
    raise LabError("host", f"{shown(value)} is no name of a host", "write it as cbd_info shows it")


def check_number(value: int, subject: str, low: int, high: int) -> int:
    """A whole number within bounds.

    :raises LabError: for another one.
    """
    if low <= value <= high:
        return value
    raise LabError(subject, f"{value} is not possible", f"choose {low} to {high}")


def check_id(value: int, subject: str) -> int:
    """The number of a backend or blkdev.

    :raises LabError: when no transport has so many.
    """
    return check_number(value, f"{subject} id", 0, ENTRIES_MAX - 1)


def check_distinct(keys: Iterable[tuple[str, Hashable]]) -> None:
    """Refuses a list in which two entries mean the same object: what is done first would decide.

    :param keys: (subject, identity) of each entry; an entry can have several identities.
    """
    seen: dict[Hashable, str] = {}
    for subject, key in keys:
        if key in seen:
            other = "" if seen[key] == subject else f", also as {seen[key]}"
            raise LabError(subject, f"is in the list twice{other}", "name each object once, in one way")
        seen[key] = subject


def check_rows(answer: object, method: str) -> list[Row]:
    """The rows of a list method.

    :raises LabError: when it is no list of objects.
    """
    if isinstance(answer, list) and all(isinstance(row, dict) for row in answer):
        return answer
    raise LabError(
        method, "returned no list of objects", "bring the daemon and this collection to matching versions", observed=answer
    )


def listed(seen: Seen, transport: str, kind: str, *, need: bool = False) -> list[Row]:
    """What is in a transport, each row with its ``transport``.

    :param kind: "host", "backend" or "blkdev".
    :param need: whether this host has to be registered in it; if not, a transport that it does not know has nothing in it.
    :raises LabError: when it has to be and is not.
    """
    for row in seen["transports"]:
        if row.get("name") == transport:
            rows = check_rows(row.get(f"{kind}_list"), f"{kind}s of transport {transport}")
            return [{"transport": transport, **each} for each in rows]
    if need:
        step = "register it first (cbd_transport, state: registered)"
        raise LabError(f"transport {transport}", "this host is not registered in it", step)
    return []


def is_dead(row: Row) -> bool:
    """Whether the host of an entry is dead for certain, or the life of it that wrote the entry."""
    return row.get("alive") is False or row.get("fenced") is True


def users(seen: Seen, transport: str, backend: object) -> list[str]:
    """The blkdevs on a backend whose hosts are not known to be dead, for a message."""
    return [
        f"blkdev {row.get('id')} of host {owner(row)}"
        for row in listed(seen, transport, "blkdev")
        # What is not in the transport has no liveness.
        if row.get("backend") == backend and "alive" in row and not is_dead(row)
    ]


def without(transports: list[Row], going: list[Row], kind: str, *, local: bool) -> list[Row]:
    """The transports as they are without the objects of a kind that ``going`` lists; ``local``: only this host's own are meant.

    :param kind: "backend" or "blkdev".
    """
    gone = {(row.get("transport"), row.get("id")) for row in going}
    name = f"{kind}_list"

    def stays(transport: Row, row: Row) -> bool:
        return (transport.get("name"), row.get("id")) not in gone or (local and not row.get("local"))

    return [{**each, name: [row for row in each.get(name) or [] if stays(each, row)]} for each in transports]


def without_blkdevs_of(transports: list[Row], hosts: list[Row]) -> list[Row]:
    """The transports as they are once these hosts were cleared out of them, as far as blkdevs are concerned."""
    gone = {(row.get("transport"), row.get("name")) for row in hosts}
    return [
        {**each, "blkdev_list": [row for row in each.get("blkdev_list") or [] if (each.get("name"), row.get("host")) not in gone]}
        for each in transports
    ]


def serves(row: Row) -> bool:
    """Whether an entry of this host does its work."""
    worker = row.get("worker")
    return row.get("state") == "running" and isinstance(worker, dict) and worker.get("state") == "running"


def troubles(wants: Iterable[Any], found: Callable[[Any], list[Row]]) -> list[str]:
    """Why what is wanted here does not do its work, though it is there. A run tries it again, and check mode does not know how
    that ends."""
    return [
        f"{want.subject} does not run on this host: {text}"
        for want in wants
        for row in (found(want) if want.wanted else [])
        if row.get("local") and not serves(row) and (text := _error(row))
    ]


def _error(row: Row) -> str:
    """What its worker failed with last; empty for nothing."""
    worker = row.get("worker")
    error = worker.get("error") if isinstance(worker, dict) else None
    parts = [error.get(key) for key in ("object", "message", "hint")] if isinstance(error, dict) else []
    said = [str(part) for part in parts if part]
    return ": ".join(said[:2]) + "".join(f"; {hint}" for hint in said[2:])


def owner(row: Row) -> str:
    """The host of an entry, for a message."""
    return str(row.get("host") or ("this host" if row.get("local") else "an unknown host"))


def when_dead(call: Call, row: Row, subject: str) -> Call:
    """The call, which waits while the host of an entry may be alive. Of an entry that cannot be read the daemon must judge."""
    if is_dead(row) or row.get("state") == "corrupt":
        return call
    hint = "make sure that it is stopped (cxl_power), or let it stop its objects itself"
    host = owner(row)
    return replace(call, waits_for=f"host {host} of {subject} to be dead", hint=hint, death_of=host)


def beating(before: Seen, now: Seen) -> set[str]:
    """The hosts whose heartbeat moved between two looks: they are alive, whereas ``alive`` may be old by a lease."""
    first, second = _beats(before), _beats(now)
    return {key[1] for key, beat in second.items() if key in first and beat != first[key]}


def _beats(seen: Seen) -> dict[tuple[str, str], object]:
    """Heartbeat counters with the life that they are of, by transport and host."""
    return {
        (str(pool.get("name")), str(row.get("name"))): (row.get("epoch"), row["beat"])
        for pool in seen["transports"]
        for row in pool.get("host_list") or []
        if isinstance(row, dict) and isinstance(row.get("beat"), int)
    }


def call_seconds(infos: Iterable[Row]) -> float:
    """How long a call may take, given the transports with their ``lease_ms``."""
    return CALL_S + _LEASES_OF_A_CALL * _longest_lease(infos)


def wait_seconds(infos: Iterable[Row]) -> float:
    """How long to wait where the user does not say: a host that has just died is dead for certain after a lease."""
    return max(WAIT_S, 2 * _longest_lease(infos) + 10)


def _longest_lease(infos: Iterable[Row]) -> float:
    """Seconds."""
    return max((info["lease_ms"] for info in infos if isinstance(info.get("lease_ms"), int)), default=0) / 1000
