# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user may decide about a backend that this host forgot: to serve it again, or to give it up. See `..forgotten`."""

from __future__ import annotations

from .. import holdings
from ..cbd.layout import BackendEntry
from ..places import same_as
from ..session import Session
from ..views import Row, backends_view, entry_row
from .in_use import refuse_used


async def forgotten_on(session: Session, path: str) -> BackendEntry | None:
    """The one on this medium."""
    found = session.forgotten().values()
    same = await same_as(path, (entry.path for entry in found)) if found else set()
    return next((entry for entry in found if entry.path in same), None)


def give_up(session: Session, backend_id: int, state: str, force: bool = False) -> Row:
    """Removes the entry; `state` is what is said of it then. Raises `busy` without `force` while others use it: they get I/O
    errors."""
    opened = session.need()
    if not force:
        serve = f"or serve it again (cxl-datapath cbd backend start {opened.info.name} {session.forgotten()[backend_id].path})"
        refuse_used(opened, backend_id, f"stop the blkdev(s) first, {serve}, or clear it by force")
    view = entry_row(backends_view(session), backend_id)
    assert view is not None
    holdings.give_back_backend(opened, backend_id, 0)
    return {key: value for key, value in view.items() if key != "error"} | {"state": state}
