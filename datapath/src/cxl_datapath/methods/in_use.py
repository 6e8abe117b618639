# SPDX-License-Identifier: GPL-3.0-or-later
"""What of this host is taken already: names of devices, and memory of pools."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import Code, DatapathError
from ..holdings import live_users
from ..memory import parse_mapping
from ..places import same_as
from ..service import Datapath
from ..session import Opened
from ..state import BlkdevState


def device_names(datapath: Datapath, but: BlkdevState | None = None) -> dict[str, str]:
    """Names of devices of this host, and whose they are."""
    found = {}
    for session in datapath.sessions.values():
        for blkdev in (each for each in session.desired.blkdevs if each is not but):
            found[blkdev.name] = f"blkdev {blkdev.id} of transport {session.name}"
    for pool in datapath.pools.values():
        for entry in (pool.desired.volume, pool.desired.swap):
            if entry is not None:
                found[entry.name] = f"pool {pool.name}"
    return found


def check_name_free(datapath: Datapath, name: str, but: BlkdevState | None = None) -> None:
    """Raises `exists`. `but`: who is about to have it."""
    owner = device_names(datapath, but).get(name)
    if owner is not None:
        raise DatapathError(Code.EXISTS, f"name {name}", f"is taken by {owner} on this host", "choose another name")


def refuse_used_mapping(datapath: Datapath, serial: int, name: str) -> None:
    """Raises `busy` when a transport or a pool of this host is in a mapping of dynamic capacity."""

    def is_it(memory: str) -> bool:
        return memory.startswith("dcd:") and parse_mapping(memory) == (serial, name)

    for session in datapath.sessions.values():
        if is_it(session.desired.memory):
            hint = f"unregister it: cxl-datapath cbd transport unregister {session.name}"
            raise DatapathError(Code.BUSY, f"mapping {name}", f"is the memory of transport {session.name}", hint)
    for pool in datapath.pools.values():
        if any(map(is_it, pool.desired.memories)):
            hint = "take it out first: cxl-datapath kmem-blk pool shrink"
            raise DatapathError(Code.BUSY, f"mapping {name}", f"is memory of pool {pool.name}", hint)


async def refuse_pool_memory(datapath: Datapath, path: str, spec: str) -> None:
    """Raises `busy` when a pool of this host has the memory that `path` is, called `spec` by the user."""
    same = await same_as(path, (memory for pool in datapath.pools.values() for memory in pool.desired.memories))
    for pool in datapath.pools.values():
        for memory in pool.desired.memories:
            if memory in same | {spec}:
                raise DatapathError(Code.BUSY, spec, f"is memory of pool {pool.name}", "choose another, or stop that pool first")


async def refuse_medium(datapath: Datapath, path: str, spec: str) -> None:
    """Raises `busy` when a backend of this host is on the file that `path` is, called `spec` by the user."""
    same = await same_as(path, media(datapath))
    for session in datapath.sessions.values():
        for backend in session.desired.backends:
            if backend.path in same:
                what = f"is backend {backend.id} of transport {session.name}"
                raise DatapathError(Code.BUSY, spec, what, "choose another memory, or stop that one first")


def refuse_used(opened: Opened, backend_id: int, hint: str) -> None:
    """Raises `busy` while a backend has blkdevs whose hosts are not known to be dead."""
    if users := live_users(opened, backend_id):
        raise DatapathError(Code.BUSY, f"backend {backend_id}", f"is used by {', '.join(users)}", hint)


def media(datapath: Datapath) -> Iterator[str]:
    """The paths of all backends of this host."""
    return (backend.path for session in datapath.sessions.values() for backend in session.desired.backends)
