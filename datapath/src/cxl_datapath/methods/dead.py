# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be true before anything of another host is touched: it is dead, and it will stay so."""

from __future__ import annotations

import asyncio

from ..cbd.fencing import fence, is_fenced
from ..cbd.layout import HostEntry, State
from ..errors import Code, DatapathError
from ..session import Opened, Session


async def need_dead(session: Session, host_id: int, what: str) -> HostEntry | None:
    """The incarnation of the host that was dead for a lease; None when no host has the entry. Raises `busy` while it lives."""
    registry = session.need().registry
    entry = registry.hosts.read(host_id)
    if entry is None or entry.state == State.NONE:
        return None
    if await session.known_alive(host_id, entry.epoch):
        hint = f"stop or unregister it on {entry.name}"
        raise DatapathError(Code.BUSY, what, f"its host {entry.name} is alive", hint)
    return entry


async def bury(opened: Opened, dead: HostEntry | None) -> None:
    """Fences the incarnation, then waits a lease: what it had in hand has ended by then. The claim is held."""
    if dead is not None:
        await asyncio.to_thread(fence, opened.registry, dead.id, dead.epoch)
        await asyncio.sleep(opened.lease_s)
        opened.lock.check()


def need_fenced(opened: Opened, host_id: int, host_epoch: int, what: str) -> None:
    """Raises `busy` when the object belongs to a life of its host that began after the one that was buried."""
    entry = opened.registry.hosts.read(host_id)
    if entry is not None and entry.state != State.NONE and not is_fenced(opened.registry, host_id, host_epoch):
        raise DatapathError(Code.BUSY, what, f"its host {entry.name} is alive again", f"stop it on {entry.name}")


def refuse_own(opened: Opened, host_id: int, what: str, hint: str) -> None:
    """Clearing is for other hosts' objects."""
    if host_id == opened.host_id:
        raise DatapathError(Code.INVALID, what, "belongs to this host, which is alive", hint)
