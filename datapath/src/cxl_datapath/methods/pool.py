# SPDX-License-Identifier: GPL-3.0-or-later
"""`kmem_blk.pool.*`: probe, format, start, set, stop, list."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..backing import looked_at
from ..cbd.transport import probe as probe_transport
from ..cbd.transport import withdraw_info
from ..errors import Code, DatapathError
from ..kmem_blk.format import check_may_format, plan_format, probe, read_range, read_superblock, write_format
from ..kmem_blk.layout import PAGE, SPARE_DEFAULT, SPARE_MAX, Superblock
from ..memory import Memory, check_spec
from ..names import check_name, pool_of
from ..pool_session import PoolSession
from ..pool_state import PAGES, RECALL_MS, RECALL_MS_DEFAULT, PoolState
from ..schema import Field, boolean, integer, optional
from ..service import Datapath
from ..supervisor import READY_S
from ..views import Row
from ..waits import Sleep, in_thread, in_time
from .base import Method, Params
from .forming import ground
from .in_use import refuse_medium, refuse_pool_memory


def pool_session(datapath: Datapath, name: str) -> PoolSession:
    if name not in datapath.pools:
        known = ", ".join(sorted(datapath.pools)) or "none"
        hint = "start it: cxl-datapath kmem-blk pool start"
        raise DatapathError(Code.NOT_FOUND, f"pool {name}", f"is not started on this host (started: {known})", hint)
    return datapath.pools[name]


async def refuse_used(datapath: Datapath, memory: Memory) -> None:
    """Raises `busy` for memory that a transport, a backend or another pool of this host has."""
    hint = "choose another memory, or stop that one first"
    for session in datapath.sessions.values():
        if await session.has(memory):
            raise DatapathError(Code.BUSY, memory.spec, f"is the memory of transport {session.name}", hint)
    await refuse_medium(datapath, memory.path, memory.spec)
    await refuse_pool_memory(datapath, memory.path, memory.spec)


def _superblock(superblock: Superblock | None) -> Row | None:
    if superblock is None:
        return None
    row = {"name": superblock.name, "uuid": str(superblock.uuid), "pages": superblock.total_pages}
    return row | {"capacity": superblock.num_index_entries * PAGE, "spare": superblock.spare_pages}


def look(memory: Memory) -> Row:
    with looked_at(memory) as seen:
        found = probe(seen)
        header = read_range(seen)
    row: Row = {"memory": memory.spec, "path": memory.path, "size": memory.size, "formatted": found.formatted}
    return row | {
        "foreign": found.foreign or None,
        "problem": found.problem or None,
        "info": _superblock(found.superblock),
        "range_of": str(header.pool) if header else None,
    }


async def seen(memory: Memory) -> Row:
    """`look` at a memory that may not answer."""
    return await in_time(partial(look, memory), memory.spec, READY_S)


async def probe_pool(datapath: Datapath, params: Params) -> Row:
    return await seen(await datapath.memory(params["memory"]))


async def format_pool(datapath: Datapath, params: Params) -> Row:
    """Refuses without force over anything known, and always over memory that is in use, here or by a living host."""
    memory = await datapath.memory(params["memory"])
    await refuse_used(datapath, memory)
    plan = plan_format(memory.size, params["name"], params["spare"])

    def work(sleep: Sleep) -> Row:
        with ground(memory, datapath.waits, sleep) as ours:
            ours.refuse_living()
            check_may_format(ours.seen, memory.spec, params["force"])
            with ours.taken() as mapping:
                if probe_transport(ours.seen).formatted:
                    withdraw_info(mapping, ours.refuse_moved)
                write_format(mapping, plan, params["thick"])
        return look(memory)

    return await in_thread(work)


def _limits(params: Params) -> dict[str, Any]:
    return {key: params[key] for key in ("reserve", "lease_limit", "lease_group", "recall_ms")}


def _superblock_of(memory: Memory) -> Superblock:
    with looked_at(memory) as seen:
        return read_superblock(seen, memory.spec)


async def _check_belongs(datapath: Datapath, spec: str, pool: Superblock) -> None:
    row = await seen(await datapath.memory(spec))
    if row["range_of"] != str(pool.uuid):
        hint = "start the pool without it, then add it: cxl-datapath kmem-blk pool grow"
        raise DatapathError(Code.INVALID, spec, f"is no memory of pool {pool.name}", hint)


async def start_pool(datapath: Datapath, params: Params) -> Row:
    """Returns when the pool serves; the same memory again returns what runs, with the limits of this call."""
    wanted = params["memories"]
    running = next((each for each in datapath.pools.values() if each.desired.memories[0] == wanted[0]), None)
    if running is not None:
        return await _adjust(datapath, running, params)
    memory = await datapath.memory(wanted[0])
    for spec in wanted:
        await refuse_used(datapath, await datapath.memory(spec))
    found = await in_time(partial(_superblock_of, memory), memory.spec, READY_S)
    if found.name in datapath.pools:
        other = datapath.pools[found.name].desired.memories[0]
        raise DatapathError(Code.EXISTS, f"pool {found.name}", f"is started already, on {other}", "format one with another name")
    for spec in wanted[1:]:
        await _check_belongs(datapath, spec, found)
    state = PoolState(found.name, str(found.uuid), list(wanted), **_limits(params))
    session = PoolSession(state, datapath.settings, datapath.memory)
    datapath.pools[session.name] = session
    try:
        await session.worker.start()
        await datapath.save_pools()
    except BaseException:
        del datapath.pools[session.name]
        await session.close(patience=5.0)
        raise
    return await session.view()


async def _adjust(datapath: Datapath, session: PoolSession, params: Params) -> Row:
    want = session.desired
    if (params["lease_group"], params["recall_ms"]) != (want.lease_group, want.recall_ms):
        what = f"runs with lease group {want.lease_group} and recall_ms {want.recall_ms}"
        raise DatapathError(Code.EXISTS, f"pool {session.name}", what, "stop it first")
    if others := [spec for spec in params["memories"] if spec not in want.memories]:
        what = f"runs without {', '.join(others)}"
        raise DatapathError(Code.EXISTS, f"pool {session.name}", what, "add a memory: cxl-datapath kmem-blk pool grow")
    await session.worker.start()
    await session.call("set", reserve=params["reserve"], lease_limit=params["lease_limit"])
    want.reserve, want.lease_limit = params["reserve"], params["lease_limit"]
    await datapath.save_pools()
    return await session.view()


async def stop_pool(datapath: Datapath, params: Params) -> Row:
    """Every page stays as it is. Raises `busy` while somebody uses the pool."""
    session = pool_session(datapath, params["pool"])
    for what, entry in (("its volume", session.desired.volume), ("its swap", session.desired.swap)):
        if entry is not None:
            raise DatapathError(Code.BUSY, f"pool {session.name}", f"{what} is the device {entry.name}", "stop that first")
    for transport in datapath.sessions.values():
        for backend in transport.desired.backends:
            if pool_of(backend.path) == session.name:
                what = f"is backend {backend.id} of transport {transport.name}"
                raise DatapathError(Code.BUSY, f"pool {session.name}", what, "stop that first")
    for lun in datapath.luns.luns.values():
        if lun.state.mode == "superpipe" and pool_of(lun.state.path) == session.name:
            raise DatapathError(Code.BUSY, f"pool {session.name}", f"is LUN {lun.state.name}", "remove that first")
    view = await session.view()
    await session.worker.stop()
    del datapath.pools[session.name]
    try:
        await datapath.save_pools()
    except DatapathError:
        datapath.pools[session.name] = session
        session.keep_workers()
        raise
    return view | {"state": "stopped"}


async def list_leases(datapath: Datapath, params: Params) -> list[Row]:
    session = pool_session(datapath, params["pool"])
    session.need_running()
    rows: list[Row] = (await session.call("status"))["leases"]
    return rows


async def list_pools(datapath: Datapath, _: Params) -> list[Row]:
    return [await session.view() for session in datapath.pools.values()]


def _spec(_: str, value: Any) -> str:
    return check_spec(value)


def _specs(field: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
        raise DatapathError(Code.INVALID, field, f"{value!r:.60} is no list of different memories")
    return [check_spec(each) for each in value]


MEMORY, POOL = Field(_spec), Field(check_name)
_FORMAT = {
    "memory": MEMORY,
    "name": Field(check_name),
    "thick": Field(boolean, False),
    "spare": Field(integer(1, SPARE_MAX), SPARE_DEFAULT),
    "force": Field(boolean, False),
}
_START = {
    "memories": Field(_specs),
    "reserve": Field(PAGES, 0),
    "lease_limit": Field(PAGES, 0),
    "lease_group": Field(optional(check_name), None),
    "recall_ms": Field(RECALL_MS, RECALL_MS_DEFAULT),
}

METHODS = {
    "kmem_blk.pool.probe": Method(probe_pool, {"memory": MEMORY}),
    "kmem_blk.pool.format": Method(format_pool, _FORMAT, mutates=True),
    "kmem_blk.pool.start": Method(start_pool, _START, mutates=True),
    "kmem_blk.pool.stop": Method(stop_pool, {"pool": POOL}, mutates=True),
    "kmem_blk.pool.list": Method(list_pools),
    "kmem_blk.lease.list": Method(list_leases, {"pool": POOL}),
}
