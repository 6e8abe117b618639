# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.backend.*`: start, stop, recover, clear, list."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from functools import partial
from operator import attrgetter

from .. import holdings, lives
from ..cbd.geometry import ENTRIES_MAX
from ..cbd.layout import BACKEND_READ_ONLY, BackendEntry
from ..cbd.registry import owned
from ..errors import Code, DatapathError
from ..forgotten import FORGOTTEN
from ..lives import Start
from ..medium_id import medium_from_json
from ..names import check_backend_path, pool_of
from ..places import same_as
from ..schema import Field, boolean, integer, number_or, optional
from ..service import Datapath
from ..session import Opened, Session
from ..state import BackendState
from ..supervisor import READY_S, Phase
from ..views import Row, backends_view, entry_row, own_row
from ..waits import in_time
from ..workers.store import check_store
from .base import TRANSPORT, Method, Params
from .dead import bury, need_fenced, need_owner_dead
from .entries import clear_entry, listed_path, not_here, not_ours, numbered, numbered_entry, refuse_known, running
from .forgotten import forgotten_on, give_up, left_forgotten, refuse_forgotten_id
from .in_use import media, refuse_pool_memory, refuse_used

_TABLE = attrgetter("backends")


def _view(session: Session, backend_id: int) -> Row:
    return own_row(backends_view(session), backend_id)


def _wanted(session: Session, backend_id: int | None) -> BackendState | None:
    """This host's own backend of that number, running or not."""
    return next((each for each in session.desired.backends if each.id == backend_id), None)


async def _numbered_entry(session: Session, given: int | str) -> int:
    rows = backends_view(session)
    return numbered_entry(session, "backend", rows, await listed_path(rows, given))


async def start_backend(datapath: Datapath, params: Params) -> Row:
    """Returns when the backend serves; the same path again returns what runs."""
    session = datapath.session(params["transport"])
    session.need()
    path, wanted = params["path"], params["id"]
    found = await _on_path(datapath, session, path)
    if found is not None:
        _check_same(session, found, params)
        await session.backends[found.id].start()
        _learn(session, found)
        return _view(session, found.id)
    if (pending := _wanted(session, wanted)) is not None:
        raise DatapathError(
            Code.EXISTS, f"backend {wanted}", f"is {pending.path} on this host", "choose another id, or stop that one first"
        )
    if (entry := await forgotten_on(session, path)) is not None:
        known = BackendState(entry.id, entry.path, bool(entry.flags & BACKEND_READ_ONLY), entry.life)
        _check_same(session, known, params)
        return await _serve_again(datapath, session, known, entry)
    refuse_forgotten_id(session, wanted)
    # The claim is held until the worker published the entry: only then does everybody see that the id is taken.
    async with session.claim() as opened:
        # A backend that is pending or lost has no entry, and keeps its id all the same.
        taken = {each.id for each in session.desired.backends}
        state = BackendState(opened.registry.backends.allocate(wanted, but=taken), path, params["read_only"])
        await _start(datapath, session, state)
    return _view(session, state.id) | {"warnings": left_forgotten(session)}


def _check_same(session: Session, have: BackendState, params: Params) -> None:
    if params["id"] not in (None, have.id) or have.read_only != params["read_only"]:
        what = f"is backend {have.id} of transport {session.name} already ({'read-only' if have.read_only else 'read-write'})"
        raise DatapathError(Code.EXISTS, params["path"], what, "stop that one first")


async def _serve_again(datapath: Datapath, session: Session, state: BackendState, entry: BackendEntry) -> Row:
    """A forgotten one, in its life, so that its blkdevs go on. Its number is this host's already: the worker takes the claim, to
    renew the entry."""
    try:
        await _start(datapath, session, state, Start.AGAIN, entry)
    except BaseException:
        with suppress(DatapathError):  # the reason of the failure says more
            await datapath.save()
        raise
    return _view(session, state.id)


async def _start(
    datapath: Datapath, session: Session, state: BackendState, start: Start = Start.FIRST, before: BackendEntry | None = None
) -> None:
    """Starts the worker and makes the backend part of the desired state; on failure everything is as it was before.

    `before`: the entry that it goes on with, of the fenced host from which it is taken over, or of this one.
    """
    refuse_known(session.backends, "backend", state.id)
    worker = session.backends[state.id] = session.backend_worker(state, start)
    session.desired.backends.append(state)
    try:
        with session.unsaved(state) if before is None else nullcontext():
            if before is not None:
                await datapath.save()  # should this daemon die once the entry is its own, the next one goes on with it
            await worker.start()
        _learn(session, state)
        await datapath.save()
    except BaseException:
        session.desired.backends.remove(state)
        await _drop(session, state, before)
        raise


def _learn(session: Session, state: BackendState) -> None:
    """What its worker found when it started."""
    info = session.backends[state.id].info
    state.life, state.file = info["life"], medium_from_json(info["file"])


async def _on_path(datapath: Datapath, session: Session, path: str) -> BackendState | None:
    """This host's backend on the same file. On another transport it is an error: two backends would write one medium."""
    await refuse_pool_memory(datapath, path, path)
    same = await same_as(path, (*media(datapath), *(other.memory_path for other in datapath.sessions.values())))
    for other in datapath.sessions.values():
        if other.memory_path in same:
            raise DatapathError(Code.BUSY, path, f"is the memory of transport {other.name}", "choose another file")
        for backend in other.desired.backends:
            if backend.path in same:
                if other is session:
                    return backend
                raise DatapathError(Code.BUSY, path, f"is backend {backend.id} of transport {other.name}", "stop that one first")
    return None


async def _drop(session: Session, state: BackendState, before: BackendEntry | None = None) -> None:
    """`before`: the entry that it went on with, which is to be taken over or served again; its blkdevs go on waiting for that."""
    try:
        await session.backends[state.id].end(patience=5.0)
        session.remove_lock("backend", state.id)
        if session.opened is not None:
            holdings.give_back_backend(session.opened, state.id, state.life, before)
    finally:
        del session.backends[state.id]


async def stop_backend(datapath: Datapath, params: Params) -> Row:
    session = datapath.session(params["transport"])
    rows = backends_view(session)
    backend_id = numbered(session, "backend", rows, await listed_path(rows, params["id"], own=True), own=True)
    state = _wanted(session, backend_id)
    if state is None and backend_id in session.forgotten():
        return give_up(session, backend_id, "stopped")
    if state is None:
        raise not_ours(session, _TABLE, backend_id) if session.opened else not_here(session, "backend", backend_id)
    view = {"id": state.id, "path": state.path, "read_only": state.read_only, "local": True}
    if session.opened is not None and not lives.is_lost(session.opened, state):
        refuse_used(session.opened, state.id, "stop the blkdev(s) first")
        view = _view(session, state.id)
    view |= {"state": "stopped", "worker": None}
    # The state first: what cannot be written must not come back after a restart as if it had never been stopped.
    await datapath.save_without(session.desired.backends, state)
    await _drop(session, state)
    return view


def _is_ours(opened: Opened, backend_id: int) -> bool:
    """Another host may have taken it over while this one was away: then its users are not ours to care for."""
    return owned(opened.registry.backends, backend_id, opened.host_id)


async def recover_backend(datapath: Datapath, params: Params) -> Row:
    """Takes over the backend of a dead host, with the same medium or a copy of it. Its blkdevs go on by themselves."""
    session = datapath.session(params["transport"])
    backend_id = await _numbered_entry(session, params["id"])
    mine = _wanted(session, backend_id)
    if mine is not None and _is_ours(session.need(), backend_id):
        if params["path"] not in (None, mine.path) or params["read_only"] not in (None, mine.read_only):
            what = f"is {mine.path} on this host already"
            raise DatapathError(Code.EXISTS, f"backend {backend_id}", what, "there is nothing to take over; stop it first")
        await _go_on(datapath, session, mine, another_file=params["path"] is not None)
        return _view(session, backend_id)
    entry = running(session, _TABLE, backend_id)
    state = _successor(entry, params)
    if (found := await _on_path(datapath, session, state.path)) is not None and found.id != backend_id:
        raise DatapathError(Code.EXISTS, state.path, f"is backend {found.id} of this host already", "give the path of the copy")
    if backend_id in session.forgotten():
        return await _serve_again(datapath, session, state, entry)
    what = f"backend {backend_id}"
    dead = await need_owner_dead(session, entry)
    # Before the fence, which cannot be taken back. A pool has no medium of its own to look at.
    if pool_of(state.path) is None:
        await in_time(partial(check_store, state.path, state.read_only, entry), state.path, READY_S)
    async with session.claim() as opened:
        await bury(opened, dead)
        entry = running(session, _TABLE, backend_id)  # its host may have come back before this one had the claim
        need_fenced(opened, entry.host_id, entry.host_epoch, what, dead)
        await _set_aside(session, mine)
        try:
            await _start(datapath, session, state, Start.TAKEOVER, entry)
        except BaseException:
            _put_back(session, mine)
            with suppress(DatapathError):  # the reason of the failure says more
                await datapath.save()
            raise
    return _view(session, backend_id)


async def _go_on(datapath: Datapath, session: Session, mine: BackendState, another_file: bool) -> None:
    """Starts a backend that this host has. `another_file`: the user says that what is at its path now has its data."""
    worker, before = session.backends[mine.id], mine.file
    if another_file and worker.phase != Phase.RUNNING:
        await worker.end(patience=5.0)  # a start that is under way still looks for the old one
        mine.file = None
    try:
        await worker.start()
    except BaseException:
        mine.file = before
        raise
    _learn(session, mine)
    await datapath.save()


def _successor(entry: BackendEntry, params: Params) -> BackendState:
    read_only = params["read_only"]
    was_read_only = bool(entry.flags & BACKEND_READ_ONLY)
    return BackendState(entry.id, params["path"] or entry.path, was_read_only if read_only is None else read_only, entry.life)


async def _set_aside(session: Session, lost: BackendState | None) -> None:
    """This host may itself have had the backend before another one took it over."""
    if lost is not None:
        session.desired.backends.remove(lost)
        await session.backends.pop(lost.id).end(patience=5.0)


def _put_back(session: Session, lost: BackendState | None) -> None:
    if lost is not None:
        session.desired.backends.append(lost)
        session.backends[lost.id] = session.backend_worker(lost)
        session.backends[lost.id].keep()


async def clear_backend(datapath: Datapath, params: Params) -> Row:
    """Removes the entry of a dead host's backend, or a damaged or forgotten one. Its blkdevs get I/O errors from then on."""
    session = datapath.session(params["transport"])
    backend_id = await _numbered_entry(session, params["id"])
    rows = backends_view(session)
    view = entry_row(rows, backend_id)
    if view is None:
        raise not_ours(session, _TABLE, backend_id)
    if view["state"] == FORGOTTEN:
        return give_up(session, backend_id, "cleared", params["force"])
    if view["state"] != "corrupt":
        await need_owner_dead(session, running(session, _TABLE, backend_id))
    if not params["force"]:
        refuse_used(session.need(), backend_id, "take it over (cxl-datapath cbd backend recover), or use force")
    return await clear_entry(session, _TABLE, view, _clear, params["force"])


async def _clear(opened: Opened, backend_id: int, host_id: int) -> None:
    holdings.clear_dead_backend(opened, backend_id, host_id)


async def list_backends(datapath: Datapath, params: Params) -> list[Row]:
    return backends_view(datapath.session(params["transport"]))


# Ids beyond the transport's own count are refused by its registry, which can say how many there are.
_ID = integer(0, ENTRIES_MAX - 1)
_ONE = {"transport": TRANSPORT, "id": Field(number_or(_ID, check_backend_path))}
_START = {
    "transport": TRANSPORT,
    "path": Field(check_backend_path),
    "id": Field(optional(_ID), None),
    "read_only": Field(boolean, False),
}
_RECOVER = _ONE | {"path": Field(optional(check_backend_path), None), "read_only": Field(optional(boolean), None)}

METHODS = {
    "cbd.backend.start": Method(start_backend, _START, mutates=True),
    "cbd.backend.stop": Method(stop_backend, _ONE, mutates=True),
    "cbd.backend.recover": Method(recover_backend, _RECOVER, mutates=True),
    "cbd.backend.clear": Method(clear_backend, _ONE | {"force": Field(boolean, False)}, mutates=True),
    "cbd.backend.list": Method(list_backends, {"transport": TRANSPORT}),
}
