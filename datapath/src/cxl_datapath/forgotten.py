# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that are this host's in the transport, and that it does not know any more: its state file was lost, or is older.

Those that others use stay until a user decides: nothing that is in use goes by accident.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from .cbd.layout import BackendEntry
from .errors import Code, DatapathError
from .holdings import live_users
from .state import BackendState

if TYPE_CHECKING:
    from .session import Opened

FORGOTTEN = "forgotten"  # what a list says of them


def forgotten(opened: Opened, wanted: Iterable[BackendState], served: Container[int]) -> dict[int, BackendEntry]:
    """By their numbers. `served`: those that this host has workers for, also what is being stopped."""
    lives = {want.id: want.life for want in wanted}

    def is_known(entry: BackendEntry) -> bool:
        # A number that this host wants in another life is not this one's.
        return lives[entry.id] in (0, entry.life) if entry.id in lives else entry.id in served

    own = (entry for entry in opened.registry.backends.used().values() if entry.host_id == opened.host_id)
    return {entry.id: entry for entry in own if not is_known(entry)}


def why_forgotten(opened: Opened, entry: BackendEntry) -> DatapathError:
    """What it is, and what a user can do."""
    users, number, transport = live_users(opened, entry.id), entry.id, opened.info.name
    what = f"was forgotten: it is this host's, but its state file does not have it; used by {', '.join(users) or 'nobody'}"
    cbd, force = "cxl-datapath cbd backend", " --force" if users else ""
    hint = f"serve it again: {cbd} start {transport} {entry.path}; or give it up: {cbd} clear {transport} {number}{force}"
    return DatapathError(Code.NOT_READY, f"backend {number}", what, hint)
