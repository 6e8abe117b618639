# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be true before anything of another host is touched: it is dead, and it will stay so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..cbd.fencing import fence, is_fenced
from ..cbd.layout import BackendEntry, BlkdevEntry
from ..errors import Code, DatapathError
from ..forgotten import is_unserved, unserved_hint
from ..session import Opened, Session


@dataclass(frozen=True)
class Dead:
    """An incarnation of a host that was seen dead for a lease; epoch 0: that of a damaged entry that does not tell."""

    host_id: int
    epoch: int


async def need_dead(session: Session, host_id: int, what: str) -> Dead | None:
    """The dead incarnation of the host; None when no host has the entry. Raises `busy` while it lives."""
    registry = session.need().registry
    epoch = registry.incarnation(host_id) if 0 <= host_id < registry.hosts.count else None
    if epoch is None:
        return None
    if await session.known_alive(host_id, epoch):
        name = registry.host_name(host_id)
        hint = (
            f"stop or unregister it on {name}; if that has just died, wait: it counts as dead after {session.need().lease_s:g} s"
        )
        raise DatapathError(Code.BUSY, what, f"its host {name} is alive", hint)
    return Dead(host_id, epoch)


async def need_owner_dead(session: Session, entry: BackendEntry | BlkdevEntry) -> Dead | None:
    """`need_dead` for the host of an entry. Of a backend that its living host does not serve it says so: to stop it there, as
    of others, is refused while it has users."""
    try:
        return await need_dead(session, entry.host_id, f"{entry.WHAT} {entry.id}")
    except DatapathError as error:
        registry = session.need().registry
        if error.code != Code.BUSY or not isinstance(entry, BackendEntry) or not is_unserved(registry, entry):
            raise
        what = f"{error.message} again and does not serve it"
        raise DatapathError(error.code, error.object, what, unserved_hint(registry, entry)) from None


async def bury(opened: Opened, *found: Dead | None) -> None:
    """Fences the incarnations, then waits a lease: what they had in hand has ended by then. The claim is held."""
    if dead := [each for each in found if each is not None]:
        for each in dead:
            if each.epoch:
                await asyncio.to_thread(fence, opened.registry, each.host_id, each.epoch)
        names = ", ".join(opened.registry.host_name(each.host_id) for each in dead)
        with opened.waits.on(f"what host {names} had in hand to be over, {opened.lease_s:g} s"):
            await asyncio.sleep(opened.lease_s)
        opened.lock.check()


def need_fenced(opened: Opened, host_id: int, host_epoch: int, what: str, dead: Dead | None) -> None:
    """Raises `busy` when the object belongs to another host than the one that was buried, or to a later life of that."""
    registry = opened.registry
    if 0 <= host_id < registry.hosts.count and registry.incarnation(host_id) and not is_fenced(registry, host_id, host_epoch):
        name = registry.host_name(host_id)
        if dead is not None and dead.host_id != host_id:
            hint = f"it is served there; see: cxl-datapath cbd backend list {opened.info.name}"
            raise DatapathError(Code.BUSY, what, f"was taken over by host {name} meanwhile", hint)
        raise DatapathError(Code.BUSY, what, f"its host {name} is alive again", f"stop it on {name}")


def refuse_own(opened: Opened, host_id: int, what: str, hint: str) -> None:
    """Clearing is for other hosts' objects."""
    if host_id == opened.host_id:
        raise DatapathError(Code.INVALID, what, "belongs to this host, which is alive", hint)
