# SPDX-License-Identifier: GPL-3.0-or-later
"""What backends and blkdevs have in common: whose an entry is, and how that of a dead host is cleared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container
from typing import TypeVar

from ..cbd.layout import BackendEntry, BlkdevEntry, State
from ..cbd.registry import Registry, Table
from ..errors import Code, DatapathError
from ..forgotten import is_unserved, unserved_hint
from ..places import same_as
from ..session import Opened, Session
from ..views import Row
from .damaged import clear_damaged
from .dead import bury, need_fenced, need_owner_dead, refuse_own

E = TypeVar("E", BackendEntry, BlkdevEntry)
TableOf = Callable[[Registry], Table[E]]


def numbered(session: Session, noun: str, rows: list[Row], given: int | str, *, own: bool = False, hint: str = "") -> int:
    """The id of what a user named as the list shows it: hosts and blkdevs by name, backends by path; a number is an id.

    `own`: of several with the name this host's own is meant. Raises `not_found`, `invalid` when the name fits several.
    """
    if isinstance(given, int):
        return given
    found = [row for row in rows if row.get("path" if noun == "backend" else "name") == given]
    ids = {row["id"]: row for row in [row for row in found if own and row["local"]] or found}
    if not ids and session.opened is None:
        raise not_here(session, noun, given)
    if not ids:
        hint = f"{hint}see: cxl-datapath cbd {noun} list {session.name}"
        raise DatapathError(Code.NOT_FOUND, f"{noun} {given}", f"is not in transport {session.name}", hint)
    if len(ids) > 1:
        which = ", ".join(f"{noun} {number} of host {row['host']}" for number, row in ids.items())
        raise DatapathError(Code.INVALID, f"{noun} {given}", f"can be {which}", "give the id")
    return int(next(iter(ids)))


def numbered_entry(session: Session, noun: str, rows: list[Row], given: int | str) -> int:
    """`numbered` for who acts on the entry: what this host lost or does not have yet has none, its number may be another's.

    Raises `not_found` also for a name that only such a row has.
    """
    entries = [row for row in rows if row["state"] not in ("pending", "lost")]
    try:
        return numbered(session, noun, entries, given)
    except DatapathError as error:
        if error.code != Code.NOT_FOUND:
            raise
        only = "a blkdev has its name on its own host only, elsewhere give the id; " if noun == "blkdev" else ""
        number = numbered(session, noun, rows, given, hint=only)
    state = next(row["state"] for row in rows if row["id"] == number and row not in entries)
    owner = next((f" (its number is host {row['host']}'s now)" for row in entries if row["id"] == number and "host" in row), "")
    hint = f"forget it: cxl-datapath cbd {noun} stop {session.name} {given}"
    raise DatapathError(Code.NOT_FOUND, f"{noun} {given}", f"is {state} here{owner}", hint)


async def listed_path(rows: list[Row], given: int | str, *, own: bool = False) -> int | str:
    """For `numbered`: the path as the list has it, where the user gives another one of the same file or device of this host.

    `own`: this host's own is meant, also where another host's has the very path. Raises `timeout` when that does not answer.
    """
    if isinstance(given, int) or any(row.get("path") == given and (row["local"] or not own) for row in rows):
        return given
    same = await same_as(given, (row["path"] for row in rows if row["local"] and "path" in row))
    return next(iter(sorted(same)), given)


def refuse_known(workers: Container[int], noun: str, number: int) -> None:
    """Raises `exists`: a second worker under one number would take the place of the first, which would go on unseen."""
    if number in workers:
        raise DatapathError(Code.EXISTS, f"{noun} {number}", "is on this host already", f"see: cxl-datapath cbd {noun} list")


def running(session: Session, table_of: TableOf[E], number: int) -> E:
    """The entry, whoever has it. Raises `not_found`."""
    table = table_of(session.need().registry)
    entry = table.read(number)
    if entry is None or entry.state == State.NONE:
        raise not_running(session, table.kind.WHAT, number)
    return entry


def not_running(session: Session, noun: str, number: int) -> DatapathError:
    what = f"is not running in transport {session.name}"
    return DatapathError(Code.NOT_FOUND, f"{noun} {number}", what, f"see: cxl-datapath cbd {noun} list")


def not_here(session: Session, noun: str, given: int | str) -> DatapathError:
    """Of what this host does not have, in a transport that is pending: what others have there cannot be seen."""
    away = session.away()
    return DatapathError(Code.NOT_FOUND, f"{noun} {given}", f"is not here, and {away.object} {away.message}", away.hint)


def not_ours(session: Session, table_of: TableOf[E], number: int) -> DatapathError:
    """Why this host cannot stop it."""
    try:
        entry = running(session, table_of, number)
    except DatapathError as error:
        return error
    registry = session.need().registry
    owner, what = registry.host_name(entry.host_id), f"{entry.WHAT} {number}"
    if isinstance(entry, BackendEntry) and is_unserved(registry, entry):
        why = f"belongs to host {owner}, which does not serve it"
        return DatapathError(Code.DENIED, what, why, unserved_hint(registry, entry))
    return DatapathError(Code.DENIED, what, f"belongs to host {owner}", f"stop it on {owner}")


async def clear_entry(
    session: Session, table_of: TableOf[E], view: Row, clear: Callable[[Opened, int, int], Awaitable[None]], force: bool
) -> Row:
    """Clears the entry of a dead host, or one that is damaged. `view` is its row, `clear` gives back what goes with it, by the
    numbers of entry and host. `force`: also a damaged one that may be a living host's."""
    number = view["id"]
    if view["state"] == "corrupt":
        await clear_damaged(session, table_of(session.need().registry), number, clear, force)
        return view | {"state": "cleared"}
    entry = running(session, table_of, number)
    what = f"{entry.WHAT} {number}"
    refuse_own(session.need(), entry.host_id, what, f"run: cxl-datapath cbd {entry.WHAT} stop {session.name} {number}")
    dead = await need_owner_dead(session, entry)
    async with session.claim() as opened:
        await bury(opened, dead)
        entry = running(session, table_of, number)  # its host may have come back before this one had the claim
        need_fenced(opened, entry.host_id, entry.host_epoch, what, dead)
        await clear(opened, entry.id, entry.host_id)
    return view | {"state": "cleared"}
