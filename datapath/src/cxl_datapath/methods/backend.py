# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.backend.*`: start, stop, list."""

from __future__ import annotations

import os

from ..cbd.geometry import ENTRIES_MAX
from ..cbd.layout import State
from ..errors import Code, DatapathError
from ..names import check_path
from ..schema import Field, boolean, integer, optional
from ..service import Datapath
from ..session import Session
from ..state import BackendState
from ..views import Row, backends_view
from .base import TRANSPORT, Method, Params


def _view(session: Session, backend_id: int) -> Row:
    return next(row for row in backends_view(session) if row["id"] == backend_id)


async def start_backend(datapath: Datapath, params: Params) -> Row:
    """Returns when the backend serves; the same path again returns what runs."""
    session = datapath.session(params["transport"])
    opened = session.need()
    path, wanted = params["path"], params["id"]
    found = _on_path(datapath, session, path)
    if found is not None:
        if wanted not in (None, found.id) or found.read_only != params["read_only"]:
            mode = "read-only" if found.read_only else "read-write"
            raise DatapathError(
                Code.EXISTS, path, f"is backend {found.id} of transport {session.name} already ({mode})", "stop that one first"
            )
        await session.backends[found.id].start()
        return _view(session, found.id)
    pending = next((each for each in session.desired.backends if each.id == wanted), None)
    if pending is not None:
        raise DatapathError(
            Code.EXISTS, f"backend {wanted}", f"is {pending.path} on this host", "choose another id, or none for a free one"
        )
    state = BackendState(opened.registry.backends.allocate(wanted), path, params["read_only"])
    worker = session.backends[state.id] = session.backend_worker(state)
    session.desired.backends.append(state)
    try:
        await worker.start()
        datapath.save()
    except BaseException:
        session.desired.backends.remove(state)
        await _drop(session, state)
        raise
    return _view(session, state.id)


def _on_path(datapath: Datapath, session: Session, path: str) -> BackendState | None:
    """This host's backend on the same file. On another transport it is an error: two backends would write one medium."""
    real = os.path.realpath(path)
    for other in datapath.sessions.values():
        if real == os.path.realpath(other.opened.memory.path if other.opened else other.desired.memory):
            raise DatapathError(Code.BUSY, path, f"is the memory of transport {other.name}", "choose another file")
        for backend in other.desired.backends:
            if os.path.realpath(backend.path) == real:
                if other is session:
                    return backend
                raise DatapathError(Code.BUSY, path, f"is backend {backend.id} of transport {other.name}", "stop that one first")
    return None


async def _drop(session: Session, state: BackendState) -> None:
    worker = session.backends.pop(state.id)
    await worker.end(patience=5.0)
    session.clear_backend(state.id)


async def stop_backend(datapath: Datapath, params: Params) -> Row:
    session = datapath.session(params["transport"])
    state = next((each for each in session.desired.backends if each.id == params["id"]), None)
    if state is None:
        raise _not_ours(session, params["id"])
    if session.opened is not None and (users := _live_users(session, state.id)):
        raise DatapathError(Code.BUSY, f"backend {state.id}", f"is used by {', '.join(users)}", "stop the blkdev(s) first")
    view = _view(session, state.id) | {"state": "stopped", "worker": None}
    # The state first: what cannot be written must not come back after a restart as if it had never been stopped.
    datapath.save_without(session.desired.backends, state)
    await _drop(session, state)
    return view


def _live_users(session: Session, backend_id: int) -> list[str]:
    """Blkdevs whose host may be alive. Unknown counts as alive."""
    registry = session.need().registry
    users = [entry for entry in registry.blkdevs.used().values() if entry.backend_id == backend_id]
    return [
        f"blkdev {user.id} of host {registry.host_name(user.host_id)}"
        for user in users
        if session.alive(user.host_id) is not False
    ]


def _not_ours(session: Session, backend_id: int) -> DatapathError:
    if session.opened is not None:
        registry = session.opened.registry
        entry = registry.backends.read(backend_id)
        if entry is not None and entry.state != State.NONE:
            owner = registry.host_name(entry.host_id)
            return DatapathError(Code.DENIED, f"backend {backend_id}", f"belongs to host {owner}", f"stop it on {owner}")
    return DatapathError(
        Code.NOT_FOUND,
        f"backend {backend_id}",
        f"is not running in transport {session.name}",
        "see: cxl-datapath cbd backend list",
    )


async def list_backends(datapath: Datapath, params: Params) -> list[Row]:
    return backends_view(datapath.session(params["transport"]))


# Ids beyond the transport's own count are refused by its registry, which can say how many there are.
_ID = integer(0, ENTRIES_MAX - 1)
_START = {"transport": TRANSPORT, "path": Field(check_path), "id": Field(optional(_ID), None), "read_only": Field(boolean, False)}

METHODS = {
    "cbd.backend.start": Method(start_backend, _START, mutates=True),
    "cbd.backend.stop": Method(stop_backend, {"transport": TRANSPORT, "id": Field(_ID)}, mutates=True),
    "cbd.backend.list": Method(list_backends, {"transport": TRANSPORT}),
}
