# SPDX-License-Identifier: GPL-3.0-or-later
"""An entry that is damaged in both copies: nobody can read whose it is, and only that of a dead host may be cleared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .. import holdings
from ..cbd.layout import BackendEntry, BlkdevEntry
from ..cbd.registry import Table
from ..errors import Code, DatapathError
from ..session import Opened, Session
from .dead import Dead, bury, need_dead

E = TypeVar("E", BackendEntry, BlkdevEntry)


async def clear_damaged(
    session: Session, table: Table[E], number: int, clear: Callable[[Opened, int, int], Awaitable[None]], force: bool
) -> None:
    """The words on the channels tell who has it; where there are none it may be any host's, and all others have to be dead.

    Raises `busy` while one lives that has it, or without `force` may have it, and when it was written again meanwhile.
    """
    kind, what = table.kind.WHAT, f"{table.kind.WHAT} {number}"
    wanted = session.desired.backends if kind == "backend" else session.desired.blkdevs
    if any(each.id == number for each in wanted):
        hint = f"run: cxl-datapath cbd {kind} stop {session.name} {number}"
        raise DatapathError(Code.INVALID, what, "belongs to this host, which is alive", hint)
    owners = holdings.owners(session.need(), kind, number)
    dead = await _dead_owners(session, owners, what) if owners else await _dead_others(session, kind, what, force)
    async with session.claim() as opened:
        if dead:
            await bury(opened, *dead)
        else:
            await asyncio.sleep(opened.lease_s)  # who has it after all writes it again
            opened.lock.check()
        if not table.is_damaged(number):
            hint = f"see: cxl-datapath cbd {kind} list"
            raise DatapathError(Code.BUSY, what, "was written again by its host, which is alive", hint)
        for host_id in owners or {opened.host_id}:
            await clear(opened, number, host_id)


async def _dead_owners(session: Session, owners: set[int], what: str) -> list[Dead]:
    """Raises `busy` with the name of the one that lives."""
    found = [await need_dead(session, host_id, what) for host_id in sorted(owners - {session.need().host_id})]
    return [dead for dead in found if dead is not None]


async def _dead_others(session: Session, kind: str, what: str, force: bool) -> list[Dead]:
    """All other hosts of the transport. Raises `busy` with the names of those that live, unless `force` says that none of them
    has it."""
    registry, me = session.need().registry, session.need().host_id
    dead, living = [], []
    for host_id in sorted(set(range(registry.hosts.count)) - {me}):
        name = registry.host_name(host_id)
        try:
            if (found := await need_dead(session, host_id, what)) is not None:
                dead.append(found)
        except DatapathError as error:
            if error.code != Code.BUSY:
                raise
            living.append(name)
    if living and not force:
        why = f"its entry is damaged, and may be that of {', '.join(living)}, which live(s)"
        hint = f"look at cxl-datapath cbd {kind} list on each of them: stop it on the one that has it; if none has it, use force"
        raise DatapathError(Code.BUSY, what, why, hint)
    return dead
