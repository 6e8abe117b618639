# SPDX-License-Identifier: GPL-3.0-or-later
"""CBD block devices: what to ask the daemon for, so that one is there, is gone or is cleared away. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from .cbd import (
    Call,
    Row,
    Seen,
    check_distinct,
    check_id,
    check_number,
    check_transport,
    listed,
    owner,
    serves,
    troubles,
    when_dead,
)
from .cbd_backend import is_ready
from .errors import LabError
from .names import check_name

QUEUES_MAX = 16
_SETTINGS = ("queues", "read_only", "shared", "io_timeout")
#: What a module shows of a blkdev before and after.
SHOWN = ("transport", "id", "host", "backend", "name", "device", "frontend", *_SETTINGS, "state")
#: The socket of the daemon lies beside those of blkdevs.
_RESERVED = "control"


@dataclass(frozen=True)
class BlkdevWant:
    """A block device on this host: that of this ``name``, without one ("") that on the ``backend``. ``id`` means one of any host.

    ``io_timeout`` in seconds; None takes the daemon's choice.
    """

    transport: str
    state: str
    backend: int | None = None
    id: int | None = None
    queues: int = 1
    frontend: str = "auto"
    name: str = ""
    read_only: bool = False
    shared: bool = False
    io_timeout: int | None = None
    force: bool = False

    @property
    def subject(self) -> str:
        means = self.name or (f"on backend {self.backend}" if self.id is None else self.id)
        return f"blkdev {means} of transport {self.transport}"

    @property
    def settings(self) -> Row:
        """What the user decided, as the daemon names it."""
        chosen = {
            "backend": self.backend,
            "queues": self.queues,
            "frontend": None if self.frontend == "auto" else self.frontend,
            "name": self.name or None,
            "read_only": self.read_only,
            "shared": self.shared,
            "io_timeout": self.io_timeout,
        }
        return {key: value for key, value in chosen.items() if value is not None}

    @property
    def wanted(self) -> Row | None:
        """What the blkdev will be, as far as that is known; None for none."""
        return {**self.settings, "state": "running"} if self.state == "present" else None


def parse(item: Row) -> BlkdevWant:
    """Checks an entry of the user's list.

    :raises LabError: for a name or a number that cannot be.
    """
    name = check_name(item["name"], "blkdev") if item["name"] else ""
    if name == _RESERVED:
        raise LabError("blkdev", f"{name!r} is reserved", "choose another name")
    want = BlkdevWant(
        check_transport(item["transport"]),
        item["state"],
        None if item["backend"] is None else check_id(item["backend"], "backend"),
        None if item["id"] is None else check_id(item["id"], "blkdev"),
        check_number(item["queues"], "queues", 1, QUEUES_MAX),
        item["frontend"],
        name,
        item["read_only"],
        item["shared"],
        None if item["io_timeout"] is None else check_number(item["io_timeout"], "io_timeout", 1, 86400),
        item["force"],
    )
    return replace(want, name="", backend=None) if want.state == "cleared" else replace(want, id=None)


def check(wants: list[BlkdevWant]) -> None:
    """Checks the entries against each other.

    :raises LabError: when two have one number or one name (names are the host's, whatever the transport), or when one without a
        name is not alone on its backend.
    """
    own = [want for want in wants if want.state != "cleared"]
    nameless = {(want.transport, want.backend) for want in own if not want.name}
    check_distinct((want.subject, (want.transport, want.id)) for want in wants if want.state == "cleared")
    check_distinct((want.subject, want.name) for want in own if want.name)
    check_distinct((want.subject, place) for want in own if (place := (want.transport, want.backend)) in nameless)


def plan(want: BlkdevWant, seen: Seen, foresee: bool) -> list[Call]:
    """The calls that bring the blkdev to its state; none when it is there.

    :param foresee: whether what is missing counts as what other tasks make (check mode of a lab that is not built).
    :raises LabError: when this host has it with other settings.
    """
    rows = listed(seen, want.transport, "blkdev", need=want.state == "present" and not foresee)
    if want.state == "present":
        lease_ms = next((row.get("lease_ms") for row in seen["transports"] if row.get("name") == want.transport), None)
        return _start(want, rows, listed(seen, want.transport, "backend"), lease_ms)
    return _clear(want, rows) if want.state == "cleared" else _stop(want, rows)


def find(want: BlkdevWant, seen: Seen) -> list[Row]:
    """The blkdev that is meant."""
    rows = listed(seen, want.transport, "blkdev")
    mine = _with_id(want, rows) if want.state == "cleared" else _own(want, rows)
    return [mine] if mine else []


def remarks(wants: list[BlkdevWant], seen: Seen) -> list[str]:
    """What is there and does not work."""
    return troubles(wants, partial(find, seen=seen))


def _own(want: BlkdevWant, rows: list[Row]) -> Row | None:
    """This host's blkdev of the name; without a name, its only one on the backend.

    :raises LabError: when it has several there.
    """
    local = [row for row in rows if row.get("local")]
    if want.name:
        return next((row for row in local if row.get("name") == want.name), None)
    found = [row for row in local if row.get("backend") == want.backend]
    if len(found) > 1:
        names = ", ".join(str(row.get("name")) for row in found)
        raise LabError(want.subject, f"this host has {names} there", "say which one (name)", observed=found)
    return found[0] if found else None


def _with_id(want: BlkdevWant, rows: list[Row]) -> Row | None:
    return next((row for row in rows if row.get("id") == want.id), None)


def _start(want: BlkdevWant, rows: list[Row], backends: list[Row], lease_ms: object) -> list[Call]:
    mine = _own(want, rows)
    if mine and _is_forgotten(mine):
        mine = None  # a start under its name takes it back
    if mine and mine.get("state") == "lost":
        problem = f"was blkdev {mine.get('id')} of this host, and is lost: it, or its backend, was stopped or cleared elsewhere"
        raise LabError(want.subject, problem, "forget it first (state: absent)", observed=mine)
    if mine:
        different = [f"{key} {mine.get(key)}" for key, wanted in want.settings.items() if mine.get(key, False) != wanted]
        if different:
            raise LabError(
                want.subject, f"is blkdev {mine.get('id')} already, with {', '.join(different)}", "stop it first (state: absent)"
            )
        if mine.get("device") and serves(mine):
            return []
    else:
        _check_timeout(want, lease_ms)
        _check_writers(want, rows)
    # Only what was chosen: the rest is the daemon's to decide, and stays as it was decided.
    params = {"transport": want.transport, **{key: value for key, value in want.settings.items() if value is not False}}
    if mine and mine.get("io_timeout") is not None:
        params["io_timeout"] = mine["io_timeout"]
    call = Call(f"start a blkdev on backend {want.backend}", "cbd.blkdev.start", params)
    if is_ready(want.backend, backends):
        return [call]
    return [replace(call, waits_for=f"backend {want.backend}", hint="start it on its host (cbd_backend)")]


def _check_timeout(want: BlkdevWant, lease_ms: object) -> None:
    """Refuses what the daemon would."""
    if want.io_timeout is not None and isinstance(lease_ms, int) and want.io_timeout * 1000 < lease_ms:
        problem = f"an io_timeout of {want.io_timeout} s is below the lease of the transport, {lease_ms / 1000:g} s"
        raise LabError(want.subject, problem, f"choose at least {-(-lease_ms // 1000)}, or none")


def _check_writers(want: BlkdevWant, rows: list[Row]) -> None:
    """Refuses what the daemon would: beside another writer, unless both are shared."""
    # What is not in the transport has no liveness.
    users = [row for row in rows if row.get("backend") == want.backend and "alive" in row]
    writers = [row for row in users if row.get("read_only") is False and not (want.shared and row.get("shared") is True)]
    if writers and not want.read_only:
        names = ", ".join(f"blkdev {row.get('id')} of host {owner(row)}" for row in writers)
        step = "stop that one (of a dead host: state: cleared), or use read_only here, or start all of them with shared"
        raise LabError(want.subject, f"backend {want.backend} is written by {names}", step, observed=writers)


def _stop(want: BlkdevWant, rows: list[Row]) -> list[Call]:
    mine = _own(want, rows)
    if mine is None:
        return []
    if _is_forgotten(mine):
        return [Call(f"remove device {want.name}", "cbd.blkdev.stop", {"transport": want.transport, "id": want.name})]
    if want.backend not in (None, mine.get("backend")):
        raise LabError(
            want.subject, f"is on backend {mine.get('backend')}, not {want.backend}", "correct the name or the backend"
        )
    return [Call(f"stop blkdev {mine.get('id')}", "cbd.blkdev.stop", {"transport": want.transport, "id": mine.get("id")})]


def _is_forgotten(row: Row) -> bool:
    """Whether it is a device that the kernel kept and that no daemon knows: it has a name only."""
    return row.get("state") == "forgotten" and row.get("id") is None


def _clear(want: BlkdevWant, rows: list[Row]) -> list[Call]:
    found = _with_id(want, rows)
    if found is None:
        return []
    if found.get("local"):
        raise LabError(want.subject, "is this host's own", "stop it (state: absent)", observed=found)
    params = {"transport": want.transport, "id": want.id, "force": want.force}
    call = Call(f"clear blkdev {want.id} of host {owner(found)}", "cbd.blkdev.clear", params)
    return [when_dead(call, found, f"blkdev {want.id}")]
