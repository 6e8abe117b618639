# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may decide about a backend that this host forgot: to serve it again, or to give it up. See `..forgotten`."""

from __future__ import annotations

from .. import holdings
from ..cbd.layout import BackendEntry
from ..errors import Code, DatapathError
from ..forgotten import serve_again, why_forgotten
from ..places import same_as
from ..session import Session
from ..views import Row, backends_view, entry_row
from .in_use import refuse_used


async def forgotten_on(session: Session, path: str) -> BackendEntry | None:
    """The one on this medium."""
    found = session.forgotten().values()
    same = await same_as(path, (entry.path for entry in found)) if found else set()
    return next((entry for entry in found if entry.path in same), None)


def refuse_forgotten_id(session: Session, wanted: int | None) -> None:
    """Raises `exists` with what can be done about the forgotten one that has the number."""
    if wanted is not None and (entry := session.forgotten().get(wanted)) is not None:
        why = why_forgotten(session.need(), entry)
        hint = f"choose another id; or {why.hint}"
        raise DatapathError(Code.EXISTS, why.object, f"is {entry.path}, and {why.message}", hint)


def left_forgotten(session: Session) -> list[str]:
    """Of each one what it is and what can be done, for who starts something else: it may have been meant."""
    opened = session.need()
    found = [(entry.path, why_forgotten(opened, entry)) for entry in session.forgotten().values()]
    return [f"{why.object} ({path}) {why.message}; {why.hint}" for path, why in found]


def give_up(session: Session, backend_id: int, state: str, force: bool = False) -> Row:
    """Removes the entry; `state` is what is said of it then. Raises `busy` without `force` while others use it: they get I/O
    errors."""
    opened = session.need()
    if not force:
        serve = f"or serve it again ({serve_again(opened.registry, session.forgotten()[backend_id])})"
        refuse_used(opened, backend_id, f"stop the blkdev(s) first, {serve}, or clear it by force")
    view = entry_row(backends_view(session), backend_id)
    assert view is not None
    holdings.give_back_backend(opened, backend_id, 0)
    return {key: value for key, value in view.items() if key != "error"} | {"state": state}
