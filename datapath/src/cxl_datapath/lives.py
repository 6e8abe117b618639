# SPDX-License-Identifier: GPL-3.0-or-later
"""The lives of a backend: which entry a start may go on with, so that nobody serves a medium under another one's number.

A life begins with a start under a free id, and goes on through restarts and takeovers until the entry is cleared. A host that
was away while its backend was taken over or cleared has lost it: its medium may be stale, also when the id is free again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from .cbd.fencing import is_fenced
from .cbd.layout import U32_MAX, BackendEntry, State
from .cbd.registry import Registry
from .errors import Code, DatapathError
from .state import BackendState

if TYPE_CHECKING:
    from .session import Opened

_DAMAGED_HINT = "stop it here, then start it again; its blkdevs have to be started anew as well"
_LOST_HINT = "what is on its medium may be old: stop it here, then start it again"


class Start(StrEnum):
    """Over which entry a worker may publish. With the first two the daemon holds the transport's claim."""

    FIRST = "first"  # none: the id is free
    TAKEOVER = "takeover"  # that of a fenced host, in the life that is taken over
    AGAIN = "again"  # this host's own, in the same life


def new_life() -> int:
    """Its number: a u32 above 0, at random, because an entry that was damaged and cleared forgets which numbers it had."""
    return 1 + secrets.randbelow(U32_MAX)


def predecessor(registry: Registry, host_id: int, backend_id: int, life: int, start: Start) -> BackendEntry | None:
    """The entry that a start goes on with; None for the first. Raises `exists` for every other entry, `corrupt`."""
    before = _readable(registry, backend_id)
    if before is None or before.state == State.NONE:
        if start is Start.FIRST:
            return None
        what = "was removed from the transport while this host was away"
        raise DatapathError(Code.EXISTS, f"backend {backend_id}", what, _LOST_HINT)
    if before.life == life and (
        (start is Start.AGAIN and before.host_id == host_id)
        or (start is Start.TAKEOVER and is_fenced(registry, before.host_id, before.host_epoch))
    ):
        return before
    raise _lost_to(registry.host_name(before.host_id), before, life)


def _lost_to(name: str, before: BackendEntry, life: int) -> DatapathError:
    """In words that stay true when that host stops it: who lost it does not look again at once."""
    what, hint = f"was removed from the transport, and its number given to a backend of host {name}", _LOST_HINT
    if before.life == life:
        what, hint = f"was taken over by host {name}", "stop it here; the data is where that host took it over"
    elif not life:
        what, hint = f"has the number of a backend of host {name}", "stop it here, then start it again"
    return DatapathError(Code.EXISTS, f"backend {before.id}", what, hint)


def _readable(registry: Registry, backend_id: int) -> BackendEntry | None:
    try:
        return registry.backends.read(backend_id)
    except DatapathError as error:
        if error.code != Code.CORRUPT:
            raise
        # A worker that runs writes it again. One that starts cannot know whether it is its own still.
        raise DatapathError(error.code, error.object, error.message, _DAMAGED_HINT) from None


def own_entry(opened: Opened, want: BackendState) -> BackendEntry:
    """The entry of a backend of this host, in the life that is wanted. Raises `exists` when it is lost, `corrupt`."""
    entry = predecessor(opened.registry, opened.host_id, want.id, want.life, Start.AGAIN)
    assert entry is not None
    return entry


def is_lost(opened: Opened, want: BackendState) -> bool:
    """Whether a backend that was published cannot go on any more."""
    try:
        own_entry(opened, want)
    except DatapathError as error:
        return error.code == Code.EXISTS and want.life != 0
    return False


def renew(opened: Opened, want: BackendState) -> None:
    """Makes the entry this incarnation's, which nobody takes over without fencing it. The claim is held. Raises `exists`."""
    entry = own_entry(opened, want)
    opened.lock.check()
    opened.registry.backends.write(replace(entry, host_epoch=opened.host_epoch))


def adopt(opened: Opened, wanted: Iterable[BackendState]) -> None:
    """Learns the lives that the state file does not tell, from entries that are still this host's."""
    entries = opened.registry.backends.used()
    for want in wanted:
        entry = entries.get(want.id)
        if want.life == 0 and entry is not None and entry.host_id == opened.host_id:
            want.life = entry.life
