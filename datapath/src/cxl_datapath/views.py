# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects as JSON, as the methods return them. Everything is read back from the transport, nothing is remembered."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from . import holdings, lives
from .cbd.fencing import is_fenced
from .cbd.layout import (
    BACKEND_DISCARD,
    BACKEND_READ_ONLY,
    BACKEND_WRITE_ZEROES,
    BLKDEV_READ_ONLY,
    BLKDEV_SHARED,
    COHERENCES,
    FEATURE_DATA_CRC,
    BackendEntry,
    BlkdevEntry,
    HostEntry,
    Info,
    State,
)
from .errors import DatapathError
from .forgotten import FORGOTTEN, why_forgotten
from .session import Session
from .supervisor import Phase, Supervised

Row = dict[str, Any]


def alive_word(verdict: bool | None) -> bool | str:
    return "unknown" if verdict is None else verdict


def info_view(info: Info) -> Row:
    g = info.geometry
    return {
        "name": info.name,
        "uuid": str(info.uuid),
        "size": g.total_size,
        "coherence": COHERENCES[info.coherence],
        "data_crc": bool(info.features & FEATURE_DATA_CRC),
        "hosts": g.host_count,
        "backends": g.backend_count,
        "blkdevs": g.blkdev_count,
        "channels": g.channel_count,
        "ring_depth": g.ring_depth,
        "slot_bytes": g.slot_bytes,
        "lease_ms": info.lease_ms,
    }


def transport_view(session: Session) -> Row:
    """`state` is running or pending; a pending one has no geometry. `reason`: why it is, or what is wrong with one that runs."""
    opened = session.opened
    row: Row = {"name": session.name, "uuid": session.desired.uuid, "memory": session.desired.memory}
    row |= {"state": "running" if opened else "pending", "reason": why.to_json() if (why := session.why()) else None}
    row |= {"path": opened.memory.path if opened else None}
    registration = opened.registration.entry if opened else None
    row |= {"host_id": registration.id if registration else None, "host_epoch": registration.epoch if registration else None}
    return row | (info_view(opened.info) if opened else {})


def hosts_view(session: Session) -> list[Row]:
    return [_damaged(index, entry) or _host(session, entry) for index, entry in _present(session.need().registry.hosts.all())]


def backends_view(session: Session) -> list[Row]:
    """Those in the transport; and those that this host wants but that are not in it: `pending` ones not yet, `lost` ones not any
    more, because another host has taken them over or cleared them. Of a `corrupt` entry only this host's wish is known. One that
    is this host's in the transport only is `forgotten`, and its `error` says what to do."""
    rows: list[Row] = []
    if session.opened is not None:
        present = _present(session.opened.registry.backends.all())
        rows = [_damaged(index, entry) or _backend(session, entry) for index, entry in present]
        for entry in session.forgotten().values():
            row = next(row for row in rows if row["id"] == entry.id)
            row |= {"state": FORGOTTEN, "error": why_forgotten(session.opened, entry).to_json()}
    for want in session.desired.backends:
        lost = session.opened is not None and lives.is_lost(session.opened, want)
        row = _of_want(rows, session, {"id": want.id, "path": want.path, "read_only": want.read_only}, lost)
        row["worker"] = _worker(session, session.backends[want.id])
    return sorted(rows, key=itemgetter("id"))


def blkdevs_view(session: Session) -> list[Row]:
    """The same for blkdevs; one that was cleared, or whose backend was, is lost, too. `device`, `name`, `frontend` are known of
    this host's only."""
    rows: list[Row] = []
    if session.opened is not None:
        present = _present(session.opened.registry.blkdevs.all())
        rows = [_damaged(index, entry) or _blkdev(session, entry) for index, entry in present]
    for want in session.desired.blkdevs:
        known = {"id": want.id, "backend": want.backend, "queues": want.queues}
        lost = session.opened is not None and holdings.is_lost(session.opened, want)
        row = _of_want(rows, session, known | {"read_only": want.read_only, "shared": want.shared}, lost)
        if lost:  # also where its entry is there still: nothing brings a backend back that was removed
            row["state"] = "lost"
        worker = _worker(session, session.blkdevs[want.id])
        live = worker["info"] if worker["state"] == "running" else {}
        row |= {
            "name": want.name,
            "device": live.get("device"),
            "frontend": live.get("frontend", want.frontend),
            "io_timeout": want.io_timeout,
            "worker": worker,
        }
    return sorted(rows, key=itemgetter("id"))


def _worker(session: Session, worker: Supervised) -> Row:
    """What the local worker does. One of a transport that is pending waits for that, whatever it did last; that the transport is
    being opened is no error of the worker's."""
    if session.opened is None:
        error = session.reason.to_json() if session.reason else None
        return worker.to_json() | {"state": str(Phase.WAITING), "error": error}
    return worker.to_json()


def is_own(row: Row) -> bool:
    """Whether this host wants what the row shows."""
    return "worker" in row


def own_row(rows: list[Row], number: int) -> Row:
    """The row of what this host wants under a number; another host's may have the same one."""
    return next(row for row in rows if row["id"] == number and is_own(row))


def entry_row(rows: list[Row], number: int) -> Row | None:
    """The row of the entry that is in the transport under a number, whoever has it."""
    return next((row for row in rows if row["id"] == number and row["state"] not in ("pending", "lost")), None)


def _of_want(rows: list[Row], session: Session, known: Row, lost: bool) -> Row:
    """The row that shows what this host wants: its entry, or one behind the entry of the host that has the number now."""
    entry = entry_row(rows, known["id"])
    mine = known | {"host": session.settings.host_name, "local": True}
    if entry is not None and entry["state"] == "corrupt":
        entry |= mine
    if entry is not None and entry["local"] and entry["state"] != FORGOTTEN:
        return entry
    rows.append(mine | {"state": "lost" if lost or entry else "pending"})
    return rows[-1]


def session_view(session: Session) -> Row:
    """A transport with everything in it."""
    hosts = hosts_view(session) if session.opened else []
    return transport_view(session) | {
        "host_list": hosts,
        "backend_list": backends_view(session),
        "blkdev_list": blkdevs_view(session),
    }


def _present(entries: list[Any]) -> list[tuple[int, Any]]:
    return [
        (index, entry)
        for index, entry in enumerate(entries)
        if entry is not None and (isinstance(entry, DatapathError) or entry.state != State.NONE)
    ]


def _damaged(index: int, entry: object) -> Row | None:
    return (
        {"id": index, "state": "corrupt", "error": entry.to_json(), "local": False} if isinstance(entry, DatapathError) else None
    )


def _place(session: Session, host_id: int, host_epoch: int) -> Row:
    opened = session.need()
    fenced = is_fenced(opened.registry, host_id, host_epoch)
    return {
        "host_id": host_id,
        "host": opened.registry.host_name(host_id),
        "alive": False if fenced else alive_word(opened.alive(host_id)),
        "fenced": fenced,
        "local": host_id == opened.host_id,
    }


def _host(session: Session, entry: HostEntry) -> Row:
    place = _place(session, entry.id, entry.epoch)
    heartbeat = session.need().registry.heartbeat(entry.id)
    beat = heartbeat.counter if heartbeat else None  # who sees it move knows more than `alive`, which is old by up to a lease
    return {"id": entry.id, "name": entry.name, "state": entry.state.name.lower(), "epoch": entry.epoch, "beat": beat} | {
        k: place[k] for k in ("alive", "fenced", "local")
    }


def _backend(session: Session, entry: BackendEntry) -> Row:
    users = session.need().registry.blkdevs.used().values()
    return {
        "id": entry.id,
        "path": entry.path,
        "state": entry.state.name.lower(),
        "epoch": entry.epoch,
        "capacity": entry.capacity,
        "logical_block_size": entry.logical_block_size,
        "physical_block_size": entry.physical_block_size,
        "discard_granularity": entry.discard_granularity,
        "read_only": bool(entry.flags & BACKEND_READ_ONLY),
        "discard": bool(entry.flags & BACKEND_DISCARD),
        "write_zeroes": bool(entry.flags & BACKEND_WRITE_ZEROES),
        "blkdevs": sorted(user.id for user in users if user.backend_id == entry.id),
    } | _place(session, entry.host_id, entry.host_epoch)


def _blkdev(session: Session, entry: BlkdevEntry) -> Row:
    backend = session.need().registry.backends.used().get(entry.backend_id)
    return {
        "id": entry.id,
        "backend": entry.backend_id,
        "state": entry.state.name.lower(),
        "epoch": entry.epoch,
        "queues": entry.queues,
        "channels": list(entry.channels),
        "capacity": backend.capacity if backend else None,
        "read_only": bool(entry.flags & BLKDEV_READ_ONLY),
        "shared": bool(entry.flags & BLKDEV_SHARED),
    } | _place(session, entry.host_id, entry.host_epoch)
