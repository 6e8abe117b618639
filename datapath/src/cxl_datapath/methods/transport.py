# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.transport.*`: probe, format, register, unregister, list."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..backing import looked_at
from ..cbd.geometry import CHANNELS_MAX, ENTRIES_MAX, FormatOptions
from ..cbd.layout import COHERENCES, LEASE_MS_DEFAULT, LEASE_MS_MAX, LEASE_MS_MIN, Info
from ..cbd.transport import attach, check_may_format, in_use, plan_format, probe, write_format
from ..errors import Code, DatapathError
from ..memory import Memory, check_spec
from ..names import check_name
from ..schema import Field, boolean, choice, integer, optional
from ..service import Datapath
from ..session import Session
from ..state import TransportState
from ..supervisor import READY_S
from ..views import Row, backends_view, blkdevs_view, info_view, is_own, transport_view
from ..waits import Sleep, in_thread, in_time
from .backend import stop_backend
from .base import TRANSPORT, Method, Params
from .blkdev import stop_blkdev
from .forgotten import left_forgotten
from .forming import ground
from .in_use import refuse_medium, refuse_pool_memory


def _spec(_: str, value: Any) -> str:
    return check_spec(value)


MEMORY = Field(_spec)


async def _session_of(datapath: Datapath, spec: str, memory: Memory | None) -> Session | None:
    """The session on this memory, under whatever name the user gave the memory then."""
    for session in datapath.sessions.values():
        if session.desired.memory == spec or (memory and await session.has(memory)):
            return session
    return None


def _known(datapath: Datapath, params: Params) -> str | None:
    session = next((each for each in datapath.sessions.values() if each.desired.memory == params["memory"]), None)
    return session.name if session else None


async def probe_transport(datapath: Datapath, params: Params) -> Row:
    memory = await datapath.memory(params["memory"])

    def look() -> Row:
        with looked_at(memory) as seen:
            found = probe(seen)
        info = info_view(found.info) if found.info else None
        return {"formatted": found.formatted, "foreign": found.foreign, "problem": found.problem or None, "info": info}

    return {"memory": memory.spec, "path": memory.path, "size": memory.size} | await in_time(look, memory.spec, READY_S)


async def format_transport(datapath: Datapath, params: Params) -> Row:
    """Refuses without force over a transport or anything else, and always while a host is alive in it or somebody has it."""
    memory = await datapath.memory(params["memory"])
    counts = {name: params[name] for name in ("hosts", "backends", "blkdevs", "channels", "ring_depth", "slot_bytes")}
    how = (params["coherence"], params["data_crc"])
    plan = plan_format(memory.size, params["name"], FormatOptions(**counts), *how, lease_ms=params["lease_ms"])
    session = await _session_of(datapath, params["memory"], memory)
    if session is not None:
        raise in_use(session.name, _members(session))
    await refuse_medium(datapath, memory.path, params["memory"])
    await refuse_pool_memory(datapath, memory.path, params["memory"])

    def work(sleep: Sleep) -> None:
        with ground(memory, datapath.waits, sleep) as ours:
            check_may_format(ours.seen, memory.spec, params["force"], ours.alive)
            with ours.taken() as mapping:
                write_format(mapping, plan, ours.refuse_moved)

    await in_thread(work)
    return await probe_transport(datapath, {"memory": params["memory"]})


def _members(session: Session) -> list[str]:
    """This host, and the others that are in the transport and not known to be dead."""
    names = {session.settings.host_name}
    if session.opened is not None:
        hosts = session.opened.registry.hosts.used().values()
        names |= {host.name for host in hosts if session.opened.alive(host.id) is not False}
    return sorted(names)


async def register_transport(datapath: Datapath, params: Params) -> Row:
    session = await _session_of(datapath, params["memory"], None)
    memory = None if session and session.opened is None else await datapath.memory(params["memory"])
    session = session or await _session_of(datapath, params["memory"], memory)
    if session is not None:
        if session.opened is None:
            await session.open()
            session.keep_workers()
            await datapath.save()
        return transport_view(session) | {"warnings": left_forgotten(session)}
    assert memory is not None
    await refuse_medium(datapath, memory.path, params["memory"])
    info = await in_time(partial(_peek, memory), memory.spec, READY_S)
    if info.name in datapath.sessions:
        other = datapath.sessions[info.name]
        hint = "format one of them with another name"
        raise DatapathError(Code.EXISTS, f"transport {info.name}", f"is registered already, on {other.desired.memory}", hint)
    session = Session(TransportState(params["memory"], info.name, str(info.uuid)), datapath.settings, datapath.waits)
    await session.open()
    # Nobody starts anything in it before it is sure to stay.
    async with session.changing:
        datapath.sessions[info.name] = session
        try:
            await datapath.save()
        except DatapathError:
            session.need().registration.leave()
            await datapath.forget(session)
            raise
    return transport_view(session) | {"warnings": left_forgotten(session)}


def _peek(memory: Memory) -> Info:
    with looked_at(memory) as seen:
        return attach(seen, memory.spec)


async def unregister_transport(datapath: Datapath, params: Params) -> Row:
    """Forgets with it what this host lost there. Raises `busy` while it has anything else in it."""
    session = datapath.session(params["transport"])
    mine = [
        (noun, row)
        for noun, view in (("blkdev", blkdevs_view), ("backend", backends_view))
        for row in view(session)
        if is_own(row)
    ]
    held = [f"{noun} {row['id']}" for noun, row in mine if row["state"] != "lost"]
    held += [f"backend {number}" for number in session.forgotten()]
    if held:
        raise DatapathError(Code.BUSY, f"transport {session.name}", f"this host has {', '.join(held)} in it", "stop them first")
    for noun, row in mine:
        await (stop_blkdev if noun == "blkdev" else stop_backend)(datapath, {"transport": session.name, "id": row["id"]})
    # Why it was pending is nothing to do with what was asked for and done.
    view = transport_view(session) | {"state": "unregistered", "reason": None}
    session.leaving = True
    try:
        await datapath.save()
    except BaseException:
        session.leaving = False
        raise
    if session.opened is not None:
        session.opened.registration.leave()
    await datapath.forget(session)
    return view


async def list_transports(datapath: Datapath, _: Params) -> list[Row]:
    return [transport_view(session) for session in datapath.sessions.values()]


_ENTRIES = integer(1, ENTRIES_MAX)
_FORMAT = {
    "memory": MEMORY,
    "name": Field(check_name),
    "force": Field(boolean, False),
    "hosts": Field(_ENTRIES, 16),
    "backends": Field(_ENTRIES, 16),
    "blkdevs": Field(_ENTRIES, 16),
    "channels": Field(optional(integer(1, CHANNELS_MAX)), None),
    "ring_depth": Field(integer(2, 1024), 64),
    "slot_bytes": Field(integer(4096, 1 << 20), 65536),
    "coherence": Field(choice(COHERENCES), "software"),
    "data_crc": Field(boolean, True),
    "lease_ms": Field(integer(LEASE_MS_MIN, LEASE_MS_MAX), LEASE_MS_DEFAULT),
}

METHODS = {
    "cbd.transport.probe": Method(probe_transport, {"memory": MEMORY}),
    "cbd.transport.format": Method(format_transport, _FORMAT, mutates=True),
    "cbd.transport.register": Method(register_transport, {"memory": MEMORY}, mutates=True, within=_known),
    "cbd.transport.unregister": Method(unregister_transport, {"transport": TRANSPORT}, mutates=True),
    "cbd.transport.list": Method(list_transports),
}
