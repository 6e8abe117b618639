# SPDX-License-Identifier: GPL-3.0-or-later
"""`kmem_blk.pool.grow` and `.shrink`: memories that come to a pool and leave it."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from ..errors import Code, DatapathError
from ..memory import Memory
from ..pool_session import PoolSession
from ..schema import Field, boolean
from ..service import Datapath
from ..supervisor import Supervised
from ..views import Row
from ..waits import Sleep, Waits, in_thread
from .base import Method, Params
from .forming import ground
from .pool import MEMORY, POOL, pool_session, refuse_used, seen

RECALL_S = 60.0  # what is swapped out has to be read
LOOK_S = 0.1


async def _ranges(session: PoolSession) -> set[str]:
    """The memories that are part of the pool now. One that is wanted need not be: volatile ones go with a power cut."""
    return {each["memory"] for each in (await session.call("status"))["ranges"]}


def _refuse_living(datapath: Datapath, memory: Memory, sleep: Sleep) -> None:
    with ground(memory, datapath.waits, sleep) as ours:
        ours.refuse_living()


async def grow_pool(datapath: Datapath, params: Params) -> Row:
    """The state first: a pool does not start without a memory that belongs to it, but with one that does not."""
    session = pool_session(datapath, params["pool"])
    session.need_running()
    spec = params["memory"]
    if spec in await _ranges(session):
        return await session.view()
    memory = await datapath.memory(spec)
    new = spec not in session.desired.memories
    if new:
        await refuse_used(datapath, memory)
        await in_thread(partial(_refuse_living, datapath, memory))
        session.desired.memories.append(spec)
    try:
        await datapath.save_pools()
        await session.call("grow", memory=memory.to_json(), force=params["force"])
    except DatapathError as error:
        if new and not await _may_be_part(session, memory, error):
            session.desired.memories.remove(spec)
            await datapath.save_pools()
        raise
    return await session.view()


async def _may_be_part(session: PoolSession, memory: Memory, error: DatapathError) -> bool:
    """Whether the pool may have added the memory, and only its answer was lost."""
    if error.code in (Code.BUSY, Code.EXISTS):
        return False
    try:
        return error.code == Code.TIMEOUT or (await seen(memory))["range_of"] == session.desired.uuid
    except DatapathError:
        return True  # a memory too many does not keep the pool from starting, one too few does


async def _leave(waits: Waits, session: PoolSession, spec: str, move: bool) -> None:
    """Where what is used in it has no room elsewhere, swap gives back first what fits into memory; it comes back by itself."""
    try:
        await session.call("shrink", memory=spec, move=move)
        return
    except DatapathError as error:
        if error.code != Code.FULL or not move or session.swap is None or session.swap.info.get("swap") == "recalled":
            raise
        full = error
    with waits.on(f"what the swap of pool {session.name} holds to come back into memory"):
        problem = await _recall_swap(session, session.swap)
    if problem:
        raise DatapathError(full.code, full.object, f"{full.message}, and swap stays on: {problem}", full.hint)
    await session.call("shrink", memory=spec, move=move)


async def _recall_swap(session: PoolSession, swap: Supervised) -> str:
    """Returns why it could not be switched off, "" when it was: then every page of it is free."""
    asked = swap.info.get("asked", 0)
    await session.call("swap_recall")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECALL_S):
            while swap.info.get("asked", 0) == asked:
                await asyncio.sleep(LOOK_S)
        return str(swap.info["swap_reason"])
    return f"its worker did not answer within {RECALL_S:.0f} s"


async def shrink_pool(datapath: Datapath, params: Params) -> Row:
    session = pool_session(datapath, params["pool"])
    session.need_running()
    spec = params["memory"]
    if spec in await _ranges(session) or spec not in session.desired.memories:
        await _leave(datapath.waits, session, spec, params["move"])
    session.desired.memories = [each for each in session.desired.memories if each != spec]
    await datapath.save_pools()
    return await session.view()


METHODS = {
    "kmem_blk.pool.grow": Method(grow_pool, {"pool": POOL, "memory": MEMORY, "force": Field(boolean, False)}, mutates=True),
    "kmem_blk.pool.shrink": Method(shrink_pool, {"pool": POOL, "memory": MEMORY, "move": Field(boolean, False)}, mutates=True),
}
