# SPDX-License-Identifier: GPL-3.0-or-later
"""`kmem_blk.volume.*` and `kmem_blk.swap.*`: the devices of a pool, start and stop."""

from __future__ import annotations

import contextlib

from ..errors import Code, DatapathError
from ..kmem_blk.layout import PAGE
from ..kmem_blk.swap import is_on
from ..names import check_blkdev_name
from ..pool_session import PoolSession
from ..pool_state import PRIORITY, SwapState, VolumeState
from ..schema import Field, integer, optional
from ..service import Datapath
from ..state import FRONTEND, QUEUES
from ..supervisor import Phase
from ..views import Row
from .base import Method, Params
from .in_use import check_name_free, device_names
from .pool import POOL, pool_session

_SIZE_MAX = ((1 << 32) - 1) * PAGE  # its blocks have a number of 32 bits


async def start_volume(datapath: Datapath, params: Params) -> Row:
    """Returns when the device is there; the same settings again return what runs."""
    session = pool_session(datapath, params["pool"])
    name = params["name"] or _free_name(datapath)
    have = session.desired.volume
    want = VolumeState(params["name"] or (have.name if have else name), params["frontend"], params["queues"])
    if have is not None:
        _refuse_other(session, have, want)
    else:
        check_name_free(datapath, want.name)
    return await _start(datapath, session, "volume", want)


def swap_name(session: PoolSession) -> str:
    return f"{session.name}-swap"


async def start_swap(datapath: Datapath, params: Params) -> Row:
    """The kernel swaps to the pool from then on."""
    session = pool_session(datapath, params["pool"])
    if params["size"] % PAGE:
        raise DatapathError(Code.INVALID, "size", f"{params['size']} is no multiple of {PAGE}")
    want = SwapState(check_blkdev_name("swap", swap_name(session)), params["size"] // PAGE, params["priority"])
    if session.desired.swap is not None:
        _refuse_other(session, session.desired.swap, want)
    else:
        check_name_free(datapath, want.name)
    return await _start(datapath, session, "swap", want)


async def _start(datapath: Datapath, session: PoolSession, what: str, want: VolumeState | SwapState) -> Row:
    """On failure everything is as it was before."""
    session.need_running()
    worker = getattr(session, what)
    if worker is not None:
        await worker.start()
        return await session.view()
    if what == "swap":
        _refuse_in_use(datapath, session)
        await session.call("swap_drop")  # of a stop that did not reach the pool
    setattr(session.desired, what, want)
    setattr(session, what, session.device_worker(swap=what == "swap"))
    try:
        await getattr(session, what).start()
        await datapath.save_pools()
    except BaseException:
        await _forget(session, what)
        if what == "swap":
            with contextlib.suppress(DatapathError):
                await session.call("swap_drop")
        raise
    return await session.view()


async def stop_volume(datapath: Datapath, params: Params) -> Row:
    return await _stop(datapath, params["pool"], "volume")


async def stop_swap(datapath: Datapath, params: Params) -> Row:
    """`swapoff` first; raises `busy` when what is there does not fit into memory. Then every page of it is free."""
    return await _stop(datapath, params["pool"], "swap")


async def _stop(datapath: Datapath, pool: str, what: str) -> Row:
    session = pool_session(datapath, pool)
    worker = getattr(session, what)
    if worker is None:
        hint = f"see: cxl-datapath kmem-blk {what} start"
        raise DatapathError(Code.NOT_FOUND, f"{what} of pool {pool}", "is not started", hint)
    if what == "swap" and worker.phase != Phase.RUNNING:
        _refuse_in_use(datapath, session)
    await worker.stop()
    await _forget(session, what)
    await datapath.save_pools()
    if what == "swap":
        await session.call("swap_drop")
    return await session.view()


def _refuse_in_use(datapath: Datapath, session: PoolSession) -> None:
    """Raises `busy` while the kernel swaps to the device and nobody is there to switch it off: its content would be lost."""
    device = datapath.settings.dev / swap_name(session)
    if is_on(device):
        raise DatapathError(Code.BUSY, str(device), "is in use as swap", f"wait until its worker runs, or run: swapoff {device}")


async def _forget(session: PoolSession, what: str) -> None:
    worker = getattr(session, what)
    setattr(session.desired, what, None)
    setattr(session, what, None)
    await worker.end(patience=5.0)


def _refuse_other(session: PoolSession, have: VolumeState | SwapState, want: VolumeState | SwapState) -> None:
    if have != want:
        settings = ", ".join(f"{key} {value}" for key, value in vars(have).items())
        raise DatapathError(
            Code.EXISTS, f"pool {session.name}", f"has the device already, with other settings ({settings})", "stop it first"
        )


def _free_name(datapath: Datapath) -> str:
    used = device_names(datapath)
    return next(name for number in range(len(used) + 1) if (name := f"kmem{number}") not in used)


_ONE = {"pool": POOL}
_VOLUME = {
    "pool": POOL,
    "name": Field(optional(check_blkdev_name), None),
    "frontend": Field(FRONTEND, "auto"),
    "queues": Field(QUEUES, 1),
}
_SWAP = {"pool": POOL, "size": Field(integer(1 << 20, _SIZE_MAX)), "priority": Field(PRIORITY, 100)}

METHODS = {
    "kmem_blk.volume.start": Method(start_volume, _VOLUME, mutates=True),
    "kmem_blk.volume.stop": Method(stop_volume, _ONE, mutates=True),
    "kmem_blk.swap.start": Method(start_swap, _SWAP, mutates=True),
    "kmem_blk.swap.stop": Method(stop_swap, _ONE, mutates=True),
}
