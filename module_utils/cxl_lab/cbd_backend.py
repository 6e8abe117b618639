# SPDX-License-Identifier: GPL-3.0-or-later
"""CBD backends: what to ask the daemon for, so that one serves here, is gone, was taken over or is cleared away. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial

from .cbd import (
    Call,
    Row,
    Seen,
    check_distinct,
    check_id,
    check_medium,
    check_transport,
    is_dead,
    listed,
    owner,
    serves,
    troubles,
    users,
    when_dead,
)
from .errors import LabError

#: What a module shows of a backend before and after.
SHOWN = ("transport", "id", "host", "path", "read_only", "state")


_FORGOTTEN_STEP = "serve it again with that path (state: present), or give it up (state: absent) once no blkdev is on it"


@dataclass(frozen=True)
class BackendWant:
    """A backend on the device or file ``path``, or with the number ``id``.

    ``path`` "" and ``read_only`` None are as in the entry of a backend that is taken over; ``id`` None takes a free one.
    """

    transport: str
    state: str
    path: str = ""
    id: int | None = None
    read_only: bool | None = None
    force: bool = False

    @property
    def subject(self) -> str:
        return f"backend {self.path or self.id} of transport {self.transport}"

    @property
    def wanted(self) -> Row | None:
        """What the backend will be, as far as that is known; None for none."""
        if self.state not in ("present", "recovered"):
            return None
        read_only = bool(self.read_only) if self.state == "present" else self.read_only
        known = {"id": self.id, "path": self.path or None, "read_only": read_only, "state": "running"}
        return {key: value for key, value in known.items() if value is not None}


def parse(item: Row) -> BackendWant:
    """Checks an entry of the user's list.

    :raises LabError: for a name, a path or a number that cannot be.
    """
    path = check_medium(item["path"], "backend") if item["path"] else ""
    return BackendWant(
        check_transport(item["transport"]),
        item["state"],
        "" if item["state"] == "cleared" else path,
        None if item["id"] is None else check_id(item["id"], "backend"),
        item["read_only"],
        item["force"],
    )


def check(wants: list[BackendWant]) -> None:
    """Checks the entries against each other.

    :raises LabError: when two have one number, or one medium: that is given away once, whatever the transport.
    """
    check_distinct((want.subject, os.path.realpath(want.path)) for want in wants if want.path)
    check_distinct((want.subject, (want.transport, want.id)) for want in wants if want.id is not None)


def plan(want: BackendWant, seen: Seen, foresee: bool) -> list[Call]:
    """The calls that bring the backend to its state; none when it is there.

    :param foresee: whether what is missing counts as what other tasks make (check mode of a lab that is not built).
    :raises LabError: when the path or the number is in use otherwise.
    """
    make = {"present": _start, "absent": _stop, "recovered": _recover, "cleared": _clear}[want.state]
    need = want.state in ("present", "recovered") and not foresee
    calls = make(want, listed(seen, want.transport, "backend", need=need), foresee)
    if want.state == "absent" or (want.state == "cleared" and not want.force):
        _check_unused(want, calls, seen)
    return calls


def find(want: BackendWant, seen: Seen) -> list[Row]:
    """The backend that is meant: this host's own, or the one with the number where another host's is dealt with."""
    rows = listed(seen, want.transport, "backend")
    mine = _with_id(want, rows) if want.state in ("recovered", "cleared") else _own(want, rows)
    return [mine] if mine else []


def remarks(wants: list[BackendWant], seen: Seen) -> list[str]:
    """What is there and does not serve; and what this host forgot in the transports of the list and no entry of it means."""
    dealt = {(row.get("transport"), row.get("id")) for want in wants for row in find(want, seen)}
    rows = [row for name in sorted({want.transport for want in wants}) for row in listed(seen, name, "backend")]
    return troubles(wants, partial(find, seen=seen)) + [
        f"backend {row.get('id')} of transport {row.get('transport')} ({row.get('path')}) was forgotten by this host, "
        f"whose daemon lost its state: {_FORGOTTEN_STEP}"
        for row in rows
        if _is_forgotten(row) and (row.get("transport"), row.get("id")) not in dealt
    ]


def is_ready(backend: int | None, rows: list[Row]) -> bool:
    """Whether some host serves the backend and is not known to be dead."""
    return any(row.get("id") == backend and row.get("state") == "running" and not is_dead(row) for row in rows)


def _own(want: BackendWant, rows: list[Row]) -> Row | None:
    """This host's backend on the path, whatever link names it; without a path the one with the number."""
    return _meant(want, [row for row in rows if row.get("local") and row.get("state") != "lost"])


def _lost(want: BackendWant, rows: list[Row]) -> Row | None:
    """A backend of this host whose number another one has now; this host still wants to serve it."""
    return _meant(want, [row for row in rows if row.get("local") and row.get("state") == "lost"])


def _meant(want: BackendWant, rows: list[Row]) -> Row | None:
    if not want.path:
        return _with_id(want, rows)
    real = os.path.realpath(want.path)
    return next((row for row in rows if os.path.realpath(str(row.get("path", ""))) == real), None)


def _with_id(want: BackendWant, rows: list[Row]) -> Row | None:
    """The backend that has the number, rather than one that lost it."""
    found = [row for row in rows if row.get("id") == want.id]
    return min(found, key=lambda row: row.get("state") == "lost", default=None)


def _start(want: BackendWant, rows: list[Row], foresee: bool) -> list[Call]:
    mine = _own(want, rows)
    read_only = bool(want.read_only)
    if mine:
        _check_id(want, mine)
        _check_mode(want, mine, read_only)
        if serves(mine):
            return []
    elif lost := _lost(want, rows):
        raise _gone(want, lost, rows)
    elif want.id is not None and (other := _with_id(want, rows)):
        raise _taken(want, other, was_ours=False)
    params = {"transport": want.transport, "path": want.path, "id": want.id, "read_only": read_only}
    return [Call(f"start a backend on {want.path}", "cbd.backend.start", params)]


def _taken(want: BackendWant, other: Row, was_ours: bool) -> LabError:
    """Why the number cannot be had. A living host that has this very medium, or what was ours, has taken it over."""
    path, host = other.get("path"), owner(other)
    if _is_forgotten(other):
        problem = f"backend {other.get('id')} is {path}, which this host forgot when its daemon lost its state"
        return LabError(want.subject, problem, f"{_FORGOTTEN_STEP}; or choose another id", observed=other)
    step = "choose another id"
    if is_dead(other):
        step += "; a backend of a dead host can be taken over (state: recovered)"
    elif other.get("host") and (was_ours or path == want.path):
        place = f"host: {host}" + ("" if path == want.path else f", path: {path}")
        whether = "it was taken over" if was_ours else f"if {host} took it over"
        other_step = "" if was_ours else "; else choose another id"
        step = f"{whether}: put {place} into cbd_backends, or begin anew (make down){other_step}"
    return LabError(want.subject, f"backend {other.get('id')} is {path} on {host}", step, observed=other)


def _gone(want: BackendWant, lost: Row, rows: list[Row]) -> LabError:
    """Why what this host lost does not serve again by itself."""
    now = next((row for row in rows if row.get("id") == lost.get("id") and row.get("state") != "lost"), None)
    if now:
        return _taken(want, now, was_ours=True)
    problem = f"was backend {lost.get('id')} of this host until another one took it over or cleared it"
    step = "its data may be old; to start it anew all the same forget it first (state: absent)"
    return LabError(want.subject, problem, step, observed=lost)


def _stop(want: BackendWant, rows: list[Row], foresee: bool) -> list[Call]:
    mine = _own(want, rows) or _lost(want, rows)
    if mine is None:
        return []
    _check_id(want, mine)
    return [Call(f"stop backend {mine.get('id')}", "cbd.backend.stop", {"transport": want.transport, "id": mine.get("id")})]


def _recover(want: BackendWant, rows: list[Row], foresee: bool) -> list[Call]:
    found = _with_id(want, rows)
    params: Row = {"transport": want.transport, "id": want.id}
    if want.path:
        params["path"] = want.path
    if want.read_only is not None:
        params["read_only"] = want.read_only
    call = Call(f"take backend {want.id} over", "cbd.backend.recover", params)
    if found is None:
        if foresee:
            return [call]
        raise LabError(f"backend {want.id}", f"is not in transport {want.transport}", "look for its number with cbd_info")
    if not found.get("local"):
        return [_when_owner_dead(call, found)]
    elsewhere = want.path and os.path.realpath(want.path) != os.path.realpath(str(found.get("path", "")))
    if elsewhere and not _is_forgotten(found):
        raise LabError(want.subject, f"backend {want.id} is {found.get('path')} on this host already", "stop it first")
    if want.read_only is not None:
        _check_mode(want, found, want.read_only)
    return [] if serves(found) else [call]


def _clear(want: BackendWant, rows: list[Row], foresee: bool) -> list[Call]:
    found = _with_id(want, rows)
    if found is None:
        return []
    if found.get("local") and not _is_forgotten(found):
        raise LabError(want.subject, "is this host's own", "stop it (state: absent)", observed=found)
    params = {"transport": want.transport, "id": want.id, "force": want.force}
    call = Call(f"clear backend {want.id} of host {owner(found)}", "cbd.backend.clear", params)
    return [call if found.get("local") else _when_owner_dead(call, found)]


def _when_owner_dead(call: Call, row: Row) -> Call:
    """Its host may live and have forgotten it, which only that one knows."""
    waiting = when_dead(call, row, f"backend {row.get('id')}")
    forgot = f"{waiting.hint}; if it forgot the backend (cbd_info there says so), let it serve that again there (state: present)"
    return replace(waiting, hint=forgot) if waiting.waits_for else call


def _is_forgotten(row: Row) -> bool:
    """Whether a backend is this host's in the transport only: its daemon lost its state, and does not know it any more."""
    return row.get("state") == "forgotten" and row.get("local") is True


def _check_unused(want: BackendWant, calls: list[Call], seen: Seen) -> None:
    """Refuses what the daemon would. Where a host has to die first nobody knows yet who else will have."""
    for row in find(want, seen):
        used = users(seen, want.transport, row.get("id")) if any(not call.waits_for for call in calls) else []
        if used:
            step = "stop the blkdev(s) first (cbd_blkdev, state: absent)"
            if want.state == "cleared":
                step = "let another host take it over (state: recovered), or set force: true: they get I/O errors"
            raise LabError(want.subject, f"backend {row.get('id')} is used by {', '.join(used)}", step, observed=row)


def _check_id(want: BackendWant, mine: Row) -> None:
    if want.id not in (None, mine.get("id")):
        raise LabError(want.subject, f"is backend {mine.get('id')} already, not {want.id}", "stop it first (state: absent)")


def _check_mode(want: BackendWant, mine: Row, read_only: bool) -> None:
    if mine.get("read_only") is not read_only:
        mode = "read-only" if mine.get("read_only") else "read-write"
        raise LabError(want.subject, f"is backend {mine.get('id')} already, {mode}", "stop it first (state: absent)")
