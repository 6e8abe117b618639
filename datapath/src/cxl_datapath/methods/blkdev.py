# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.blkdev.*`: start, stop, clear, list."""

from __future__ import annotations

import asyncio
import logging
from operator import attrgetter

from .. import holdings
from ..cbd.geometry import ENTRIES_MAX
from ..cbd.layout import BackendEntry, BlkdevEntry, State
from ..cbd.liveness import check_io_timeout, io_timeout_s
from ..errors import Code, DatapathError
from ..forgotten import unserved_hint
from ..frontends.names import ublk_number
from ..names import check_backend_path, check_blkdev_name
from ..schema import Field, boolean, integer, number_or, optional
from ..service import Datapath
from ..session import Opened, Session
from ..state import FRONTEND, IO_TIMEOUT, QUEUES, BlkdevState
from ..views import Row, backends_view, blkdevs_view, entry_row, own_row
from . import kept
from .base import TRANSPORT, Method, Params
from .entries import clear_entry, listed_path, not_here, not_ours, numbered, numbered_entry, refuse_known
from .in_use import check_name_free

RETURN_S = 10.0  # for a host that has come back until it serves its backends
_RETURN_STEP_S = 0.1

_TABLE = attrgetter("blkdevs")

log = logging.getLogger(__name__)


def _view(session: Session, blkdev_id: int) -> Row:
    return own_row(blkdevs_view(session), blkdev_id)


async def start_blkdev(datapath: Datapath, params: Params) -> Row:
    """Returns when the device can be used; the same settings again return what runs."""
    session = datapath.session(params["transport"])
    lease_s = session.need().lease_s
    backends = backends_view(session)
    backend_id = numbered_entry(session, "backend", backends, await listed_path(backends, params["backend"]))
    params = params | {"backend": backend_id}
    params["io_timeout"] = params["io_timeout"] or io_timeout_s(lease_s)
    mine = _mine(session, params)
    if mine is not None:
        _check_same(session, mine, params)
        _check_not_lost(session, mine)
        await session.blkdevs[mine.id].start()
        return _view(session, mine.id)
    check_io_timeout(f"blkdev on backend {params['backend']}", params["io_timeout"], lease_s)
    if params["name"]:
        check_name_free(datapath, params["name"])
    backend = await _check_backend(session, params["backend"])
    async with session.claim() as opened:
        blkdev_id = opened.registry.blkdevs.allocate(but={each.id for each in session.desired.blkdevs})
        refuse_known(session.blkdevs, "blkdev", blkdev_id)
        state = _state(blkdev_id, backend.life, params)
        check_name_free(datapath, state.name)
        if not params["name"]:
            await kept.refuse_chance(datapath, session, state.name, state.frontend)
        entry = holdings.reserve(opened, state, first=True)
    await _start(datapath, session, state, entry)
    return _view(session, blkdev_id)


def _mine(session: Session, params: Params) -> BlkdevState | None:
    """The blkdev of this host that is meant: by its name, without one by its backend."""
    key, wanted = ("name", params["name"]) if params["name"] else ("backend", params["backend"])
    return next((each for each in session.desired.blkdevs if getattr(each, key) == wanted), None)


def _state(blkdev_id: int, backend_life: int, params: Params) -> BlkdevState:
    chosen = {key: params[key] for key in ("backend", "queues", "frontend", "read_only", "shared", "io_timeout")}
    return BlkdevState(id=blkdev_id, name=params["name"] or f"cbd{blkdev_id}", backend_life=backend_life, **chosen)


async def _start(datapath: Datapath, session: Session, state: BlkdevState, entry: BlkdevEntry) -> None:
    """Starts the worker and makes the blkdev part of the desired state; on failure nothing of it is left."""
    worker = session.blkdevs[state.id] = session.blkdev_worker(state, entry)
    session.desired.blkdevs.append(state)
    try:
        with session.unsaved(state):
            check_name_free(datapath, state.name, but=state)  # a change of another transport may have taken it meanwhile
            await worker.start()
        await datapath.save()
    except BaseException:
        await worker.end(patience=5.0)
        session.desired.blkdevs.remove(state)
        await _forget(session, state)
        raise


def _check_same(session: Session, mine: BlkdevState, params: Params) -> None:
    actual = session.blkdevs[mine.id].info.get("frontend")
    same = all(getattr(mine, key) == params[key] for key in ("backend", "queues", "read_only", "shared", "io_timeout"))
    if same and params["frontend"] in ("auto", mine.frontend, actual) and params["name"] in (None, mine.name):
        return
    have = f"name {mine.name}, backend {mine.backend}, {mine.queues} queue(s), front end {actual or mine.frontend}"
    have += (
        f", {'read-only' if mine.read_only else 'writing'}{', shared' if mine.shared else ''}, I/O timeout {mine.io_timeout} s"
    )
    what = f"blkdev {mine.id}"
    raise DatapathError(Code.EXISTS, what, f"of this host has other settings ({have})", "stop it first, or give another name")


def _check_not_lost(session: Session, mine: BlkdevState) -> None:
    """Raises `not_found`: its worker may still run, and fail every request."""
    if holdings.is_lost(session.need(), mine):
        why = holdings.why_lost(session.need(), mine)
        raise DatapathError(Code.NOT_FOUND, f"blkdev {mine.id}", why, "stop it here, then start a new one")


async def _check_backend(session: Session, backend_id: int) -> BackendEntry:
    """Running, on a live host: a device that cannot serve its first request is not started. A host that has come back is given
    the time to serve what it had."""
    registry = session.need().registry
    for _ in range(int(RETURN_S / _RETURN_STEP_S)):
        backend = registry.backends.read(backend_id)
        if backend is None or backend.state != State.RUNNING:
            hint = "start it on its host: cxl-datapath cbd backend start"
            raise DatapathError(Code.NOT_FOUND, f"backend {backend_id}", f"is not running in transport {session.name}", hint)
        owner = registry.host_name(backend.host_id)
        epoch = _incarnation(session, backend.host_id)
        if epoch is None or not await session.known_alive(backend.host_id, epoch):
            hint = f"start cxl-datapathd on {owner}, or take the backend over: cxl-datapath cbd backend recover"
            raise DatapathError(Code.NOT_READY, f"backend {backend_id}", f"its host {owner} is not alive", hint)
        if backend.host_epoch >= epoch:
            return backend
        await asyncio.sleep(_RETURN_STEP_S)
    assert backend is not None
    what = f"its host {owner} is back and does not serve it"
    raise DatapathError(Code.NOT_READY, f"backend {backend_id}", what, unserved_hint(registry, backend))


def _incarnation(session: Session, host_id: int) -> int | None:
    """None where no host has the entry."""
    registry = session.need().registry
    return registry.incarnation(host_id) if 0 <= host_id < registry.hosts.count else None


async def _forget(session: Session, state: BlkdevState) -> None:
    session.blkdevs.pop(state.id)
    session.remove_lock("blkdev", state.id)
    if session.opened is not None:
        await holdings.give_back_blkdev(session.opened, state.id)


async def stop_blkdev(datapath: Datapath, params: Params) -> Row:
    """Raises `busy`, and leaves the device as it is, while somebody uses it."""
    session = datapath.session(params["transport"])
    if (number := await kept.forgotten_device(datapath, params["id"])) is not None:
        return await kept.remove(session, params["id"], number, "stopped")
    blkdev_id = numbered(session, "blkdev", blkdevs_view(session), params["id"])
    state = next((each for each in session.desired.blkdevs if each.id == blkdev_id), None)
    if state is None:
        raise not_ours(session, _TABLE, blkdev_id) if session.opened else not_here(session, "blkdev", blkdev_id)
    view = _view(session, state.id) | {"state": "stopped", "device": None, "worker": None}
    await session.blkdevs[state.id].stop()
    await _remove_kept(session, state)
    try:
        await datapath.save_without(session.desired.blkdevs, state)
    except DatapathError:
        session.blkdevs[state.id].keep()
        raise
    await _forget(session, state)
    return view


async def _remove_kept(session: Session, state: BlkdevState) -> None:
    """A ublk device outlives a worker that was killed or had no backend any more. It goes before the entry does."""
    await session.end_failing(state.name)
    number = ublk_number(session.settings.dev / state.name)
    if number is None:
        return
    remover = session.remover(state.name, number, patient=False)
    try:
        await remover.start()
    except DatapathError as error:
        if error.code == Code.BUSY:
            session.fail_lost_devices()
            session.blkdevs[state.id].keep()
            raise
        log.warning("blkdev %d: the kernel keeps its ublk device: %s", state.id, error)
    finally:
        await remover.end(patience=5.0)


async def clear_blkdev(datapath: Datapath, params: Params) -> Row:
    """Removes the entry of a dead host's blkdev, or a damaged one; its channels and its backend are free then."""
    session = datapath.session(params["transport"])
    if (number := await kept.forgotten_device(datapath, params["id"])) is not None:
        return await kept.remove(session, params["id"], number, "cleared", params["force"])
    rows = blkdevs_view(session)
    blkdev_id = numbered_entry(session, "blkdev", rows, params["id"])
    view = entry_row(rows, blkdev_id)
    if view is None:
        raise not_ours(session, _TABLE, blkdev_id)
    return await clear_entry(session, _TABLE, view, _clear, params["force"])


async def _clear(opened: Opened, blkdev_id: int, _: int) -> None:
    given_back = holdings.clear_dead_blkdev(opened, blkdev_id)
    await holdings.wait_released(opened, given_back, blkdev_id)


async def list_blkdevs(datapath: Datapath, params: Params) -> list[Row]:
    session = datapath.session(params["transport"])
    return blkdevs_view(session) + kept.rows(session, await kept.forgotten_devices(datapath))


_ID = integer(0, ENTRIES_MAX - 1)
_ONE = {"transport": TRANSPORT, "id": Field(number_or(_ID, check_blkdev_name))}
_START = {
    "transport": TRANSPORT,
    "backend": Field(number_or(_ID, check_backend_path)),
    "queues": Field(QUEUES, 1),
    "frontend": Field(FRONTEND, "auto"),
    "name": Field(optional(check_blkdev_name), None),
    "read_only": Field(boolean, False),
    "shared": Field(boolean, False),
    "io_timeout": Field(optional(IO_TIMEOUT), None),
}

METHODS = {
    "cbd.blkdev.start": Method(start_blkdev, _START, mutates=True),
    "cbd.blkdev.stop": Method(stop_blkdev, _ONE, mutates=True),
    "cbd.blkdev.clear": Method(clear_blkdev, _ONE | {"force": Field(boolean, False)}, mutates=True),
    "cbd.blkdev.list": Method(list_blkdevs, {"transport": TRANSPORT}),
}
