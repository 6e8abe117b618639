# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.blkdev.*`: start, stop, list."""

from __future__ import annotations

import logging

from ..cbd.geometry import ENTRIES_MAX
from ..cbd.layout import QUEUES_MAX, State
from ..errors import Code, DatapathError
from ..frontends import CHOICES
from ..frontends.names import ublk_number
from ..names import check_blkdev_name
from ..schema import Field, choice, integer, optional
from ..service import Datapath
from ..session import Session
from ..state import BlkdevState
from ..supervisor import Supervised
from ..views import Row, blkdevs_view
from .base import TRANSPORT, Method, Params

log = logging.getLogger(__name__)


def _view(session: Session, blkdev_id: int) -> Row:
    return next(row for row in blkdevs_view(session) if row["id"] == blkdev_id)


async def start_blkdev(datapath: Datapath, params: Params) -> Row:
    """Returns when the device can be used; the same settings again return what runs."""
    session = datapath.session(params["transport"])
    opened = session.need()
    backend_id = params["backend"]
    mine = next((each for each in session.desired.blkdevs if each.backend == backend_id), None)
    if mine is not None:
        _check_same(session, mine, params)
        await session.blkdevs[mine.id].start()
        return _view(session, mine.id)
    await _check_backend(session, backend_id)
    blkdev_id = opened.registry.blkdevs.allocate()
    name = params["name"] or f"cbd{blkdev_id}"
    _check_name_free(datapath, name)
    state = BlkdevState(blkdev_id, backend_id, params["queues"], params["frontend"], name)
    worker = session.blkdevs[blkdev_id] = session.blkdev_worker(state)
    session.desired.blkdevs.append(state)
    try:
        await worker.start()
        datapath.save()
    except BaseException:
        await worker.end(patience=5.0)
        session.desired.blkdevs.remove(state)
        await _forget(session, state)
        raise
    return _view(session, blkdev_id)


def _check_same(session: Session, mine: BlkdevState, params: Params) -> None:
    actual = session.blkdevs[mine.id].info.get("frontend")
    same_frontend = params["frontend"] in ("auto", mine.frontend, actual)
    if mine.queues == params["queues"] and same_frontend and params["name"] in (None, mine.name):
        return
    have = f"name {mine.name}, {mine.queues} queue(s), front end {actual or mine.frontend}"
    raise DatapathError(
        Code.EXISTS,
        f"backend {mine.backend}",
        f"is blkdev {mine.id} of this host with other settings ({have})",
        "stop that one first",
    )


async def _check_backend(session: Session, backend_id: int) -> None:
    """Running, on a live host, and nobody else's."""
    registry = session.need().registry
    backend = registry.backends.read(backend_id)
    if backend is None or backend.state != State.RUNNING:
        hint = "start it on its host: cxl-datapath cbd backend start"
        raise DatapathError(Code.NOT_FOUND, f"backend {backend_id}", f"is not running in transport {session.name}", hint)
    owner = registry.host_name(backend.host_id)
    if not await session.known_alive(backend.host_id):
        raise DatapathError(
            Code.NOT_READY, f"backend {backend_id}", f"its host {owner} is not alive", f"start cxl-datapathd on {owner}"
        )
    for user in registry.blkdevs.used().values():
        # A dead host's device that still names an older life of the backend holds nothing any more.
        if user.backend_id == backend_id and (user.backend_epoch == backend.epoch or session.alive(user.host_id) is not False):
            holder = f"blkdev {user.id} of host {registry.host_name(user.host_id)}"
            raise DatapathError(
                Code.BUSY, f"backend {backend_id}", f"is used by {holder}", "a backend serves one blkdev: stop that one first"
            )


def _check_name_free(datapath: Datapath, name: str) -> None:
    for session in datapath.sessions.values():
        for blkdev in session.desired.blkdevs:
            if blkdev.name == name:
                where = f"blkdev {blkdev.id} of transport {session.name}"
                raise DatapathError(
                    Code.EXISTS, f"name {name}", f"is taken by {where} on this host", "choose another with the parameter name"
                )


async def _forget(session: Session, state: BlkdevState) -> None:
    session.blkdevs.pop(state.id)
    await session.clear_blkdev(state.id)


async def stop_blkdev(datapath: Datapath, params: Params) -> Row:
    """Raises `busy`, and leaves the device as it is, while somebody uses it."""
    session = datapath.session(params["transport"])
    state = next((each for each in session.desired.blkdevs if each.id == params["id"]), None)
    if state is None:
        raise _not_ours(session, params["id"])
    view = _view(session, state.id) | {"state": "stopped", "device": None, "worker": None}
    await session.blkdevs[state.id].stop()
    await _remove_kept(session, state)
    try:
        datapath.save_without(session.desired.blkdevs, state)
    except DatapathError:
        session.blkdevs[state.id].keep()
        raise
    await _forget(session, state)
    return view


async def _remove_kept(session: Session, state: BlkdevState) -> None:
    """A ublk device outlives a worker that was killed or had no backend any more. It goes before the entry does."""
    number = ublk_number(session.settings.dev / state.name)
    if number is None:
        return
    config = {"device": number, "name": state.name, "dev": str(session.settings.dev)}
    remover = Supervised("remove", f"blkdev {state.id} ublk device {number}", lambda: config, lambda: None)
    try:
        await remover.start()
    except DatapathError as error:
        if error.code == Code.BUSY:
            session.blkdevs[state.id].keep()
            raise
        log.warning("blkdev %d: the kernel keeps its ublk device: %s", state.id, error)
    finally:
        await remover.end(patience=5.0)


def _not_ours(session: Session, blkdev_id: int) -> DatapathError:
    if session.opened is not None:
        registry = session.opened.registry
        entry = registry.blkdevs.read(blkdev_id)
        if entry is not None and entry.state != State.NONE:
            owner = registry.host_name(entry.host_id)
            return DatapathError(Code.DENIED, f"blkdev {blkdev_id}", f"belongs to host {owner}", f"stop it on {owner}")
    return DatapathError(
        Code.NOT_FOUND, f"blkdev {blkdev_id}", f"is not running in transport {session.name}", "see: cxl-datapath cbd blkdev list"
    )


async def list_blkdevs(datapath: Datapath, params: Params) -> list[Row]:
    return blkdevs_view(datapath.session(params["transport"]))


_ID = integer(0, ENTRIES_MAX - 1)
_START = {
    "transport": TRANSPORT,
    "backend": Field(_ID),
    "queues": Field(integer(1, QUEUES_MAX), 1),
    "frontend": Field(choice(CHOICES), "auto"),
    "name": Field(optional(check_blkdev_name), None),
}

METHODS = {
    "cbd.blkdev.start": Method(start_blkdev, _START, mutates=True),
    "cbd.blkdev.stop": Method(stop_blkdev, {"transport": TRANSPORT, "id": Field(_ID)}, mutates=True),
    "cbd.blkdev.list": Method(list_blkdevs, {"transport": TRANSPORT}),
}
