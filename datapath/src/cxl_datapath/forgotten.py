# SPDX-License-Identifier: GPL-3.0-or-later
"""Backends that are this host's in the transport, and that it does not know any more: its state file was lost, or is older.

Those that others use stay until a user decides: nothing that is in use goes by accident. Another host only sees that the owner is
back and does not serve them; the owner knows why.
"""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from .cbd.layout import BackendEntry
from .cbd.registry import Registry
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
    give_up = f"cxl-datapath cbd backend clear {transport} {number}{' --force' if users else ''}"
    hint = f"serve it again: {serve_again(opened.registry, entry)}; or give it up: {give_up}"
    return DatapathError(Code.NOT_READY, f"backend {number}", what, hint)


def serve_again(registry: Registry, entry: BackendEntry) -> str:
    """The command, on the host that has the entry."""
    return f"cxl-datapath cbd backend start {registry.info.name} {shlex.quote(entry.path)}"


def is_unserved(registry: Registry, entry: BackendEntry) -> bool:
    """Whether its host has come back as a new incarnation, and does not serve it: not yet, or not any more."""
    if not 0 <= entry.host_id < registry.hosts.count:
        return False
    return (registry.incarnation(entry.host_id) or 0) > entry.host_epoch


def unserved_hint(registry: Registry, entry: BackendEntry) -> str:
    """What to do about such a backend, for who is on another host."""
    name, transport, lease_s = registry.host_name(entry.host_id), registry.info.name, registry.info.lease_s
    cbd = "cxl-datapath cbd backend"
    return (
        f"see why, on {name}: {cbd} list {transport}; if it is forgotten there, serve it again, on {name}: "
        f"{serve_again(registry, entry)}; if {name} cannot serve it any more, stop cxl-datapathd on {name}, wait {lease_s:g} s, "
        f"then take it over here: {cbd} recover {transport} {entry.id}"
    )
