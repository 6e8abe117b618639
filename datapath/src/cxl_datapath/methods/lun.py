# SPDX-License-Identifier: GPL-3.0-or-later
"""`lun.*`: which LUNs this host has for user space, and who uses them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ..cxlflash.desired import CLIENT_CONTEXTS_DEFAULT, MODES, SIZE_MAX, LunState, check_users
from ..cxlflash.lun import Lun
from ..cxlflash.master import refuse_used
from ..cxlflash.refusal import Refusal
from ..cxlflash.wire import BLOCK, CONTEXTS_MAX
from ..cxlflash.wwid import check_wwid, is_wwid, wwid_of
from ..errors import Code, DatapathError
from ..names import check_backend_path, check_name
from ..places import same_as
from ..schema import Field, boolean, choice, integer, optional
from ..service import Datapath
from ..views import Row
from ..waits import in_time
from .base import Method, Params
from .in_use import media

_STOP_S = 10.0


def _view(lun: Lun) -> Row:
    """Sizes in bytes; those of a LUN that does not run are null."""
    lun.measure()  # it may have been started in the background
    state, chunks = lun.state, lun.chunks
    size = lun.blocks * BLOCK if chunks else None
    handles = [handle for context in lun.contexts for handle in context.handles.values()]
    return {
        "wwid": state.wwid,
        "name": state.name,
        "path": state.path,
        "mode": state.mode,
        "state": "running" if lun.running else "stopped" if state.mode == "legacy" else "pending",
        "size": size,
        "chunk_size": chunks.blocks * BLOCK if chunks else None,
        "free": chunks.free * chunks.blocks * BLOCK if chunks else None,
        "use": handles[0].kind if handles else "none",
        "read_only": state.read_only,
        "contexts": len(lun.contexts),
        "handles": len(handles),
        "client_contexts": state.client_contexts,
        "client_size": state.client_size,
        "users": state.users,
        "worker": lun.worker.to_json() if state.mode == "superpipe" else None,
    }


async def create(datapath: Datapath, params: Params) -> Row:
    """Returns when the LUN serves; the same path again returns what is there, if it is the same."""
    luns = datapath.luns
    path = params["path"]
    wwid = params["wwid"] or await in_time(partial(wwid_of, path), path)
    state = LunState(wwid, **{key: params[key] for key in _CREATE if key != "wwid"})
    same = await same_as(path, (lun.state.path for lun in luns.luns.values()))
    found = next((lun for lun in luns.luns.values() if lun.state.path in same), None)
    if found is not None:
        if found.state != replace(state, path=found.state.path):
            what, hint = f"is LUN {found.state.name} already, with other settings", "change it with lun set, or remove it"
            raise DatapathError(Code.EXISTS, state.path, what, hint)
        if found.state.mode == "superpipe":
            await found.open()
        return _view(found)
    for taken in (state.wwid, state.name):
        if luns.find(taken) is not None:
            raise DatapathError(Code.EXISTS, f"LUN {taken}", "there is one of that name already", "choose another name")
    await _refuse_backend(datapath, state.path)
    await _make(datapath, state)
    return _view(luns.luns[state.wwid])


async def _make(datapath: Datapath, state: LunState) -> None:
    luns = datapath.luns
    lun = luns.luns[state.wwid] = luns.make(state)
    try:
        if state.mode == "superpipe":
            await lun.open()
        await luns.save()
    except BaseException:
        del luns.luns[state.wwid]
        await lun.close(_STOP_S)
        raise


async def _refuse_backend(datapath: Datapath, path: str) -> None:
    """A lock would refuse it, too, but cannot say whose it is."""
    same = await same_as(path, media(datapath))
    for session in datapath.sessions.values():
        for backend in session.desired.backends:
            if backend.path in same:
                what = f"is backend {backend.id} of transport {session.name}"
                raise DatapathError(Code.BUSY, path, what, "stop that one first")


async def change(datapath: Datapath, params: Params) -> Row:
    """What is null stays. Limits hold for what is asked for from now on."""
    lun = datapath.luns.need(params["lun"])
    async with lun.lock:
        before = replace(lun.state)
        for key in ("client_contexts", "client_size", "users"):
            if params[key] is not None:
                setattr(lun.state, key, params[key])
        try:
            await datapath.luns.save()
            await datapath.luns.set_mode(lun, params["mode"] or lun.state.mode)
        except BaseException:
            lun.state = before
            await datapath.luns.save()
            raise
    return _view(lun)


async def remove(datapath: Datapath, params: Params) -> Row:
    luns = datapath.luns
    lun = luns.need(params["lun"])
    async with lun.lock:
        refuse_used(lun)
        del luns.luns[lun.state.wwid]
        try:
            await luns.save()
        except DatapathError:
            luns.luns[lun.state.wwid] = lun
            raise
        await lun.close(_STOP_S)
    return _view(lun) | {"state": "removed", "worker": None}


async def list_luns(datapath: Datapath, _: Params) -> list[Row]:
    return [_view(lun) for lun in datapath.luns.luns.values()]


async def stats(datapath: Datapath, params: Params) -> Row:
    """Counters of the engine since it was started."""
    lun = datapath.luns.need(params["lun"])
    try:
        found = await lun.call("stats")
    except Refusal as refusal:
        raise DatapathError(Code.NOT_READY, f"LUN {lun.state.name}", str(refusal)) from None
    return {"name": lun.state.name, **found["stats"]}


async def list_contexts(datapath: Datapath, params: Params) -> list[Row]:
    lun = datapath.luns.need(params["lun"])
    return [
        {
            "slot": context.slot,
            "pid": context.owner.pid,
            "uid": context.owner.uid,
            "state": context.state,
            "depth": context.depth,
            "read_only": context.read_only,
            "handles": [
                {"handle": number, "kind": handle.kind, "size": handle.blocks * BLOCK}
                for number, handle in sorted(context.handles.items())
            ],
        }
        for context in lun.contexts
    ]


def _name(field: str, value: object) -> str:
    name = check_name(field, value)
    if is_wwid(name):
        raise DatapathError(Code.INVALID, field, "a name must not look like a WWID", "choose another name")
    return name


_LIMITS = {"client_contexts": integer(1, CONTEXTS_MAX), "client_size": integer(0, SIZE_MAX), "users": check_users}
_LUN = {"lun": Field(check_name)}
_CREATE = {
    "path": Field(check_backend_path),
    "name": Field(_name),
    "wwid": Field(optional(check_wwid), None),
    "mode": Field(choice(MODES), "superpipe"),
    "read_only": Field(boolean, False),
    "client_contexts": Field(_LIMITS["client_contexts"], CLIENT_CONTEXTS_DEFAULT),
    "client_size": Field(_LIMITS["client_size"], 0),
    "users": Field(_LIMITS["users"], []),
}
_SET = _LUN | {name: Field(optional(check), None) for name, check in (_LIMITS | {"mode": choice(MODES)}).items()}

METHODS = {
    "lun.create": Method(create, _CREATE, mutates=True),
    "lun.set": Method(change, _SET, mutates=True),
    "lun.remove": Method(remove, _LUN, mutates=True),
    "lun.list": Method(list_luns),
    "lun.contexts": Method(list_contexts, _LUN),
    "lun.stats": Method(stats, _LUN),
}
