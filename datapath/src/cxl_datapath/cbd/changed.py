# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of an entry that does not stand any more as the worker that has it knows it."""

from __future__ import annotations

from ..errors import Code, DatapathError
from .hosting import LOST_HINT
from .layout import BackendEntry, BlkdevEntry, State
from .registry import Registry, Table


def why_changed(
    registry: Registry, table: Table[BackendEntry] | Table[BlkdevEntry], mine: BackendEntry | BlkdevEntry
) -> DatapathError:
    """The error for who lost the entry `mine`, with what to do next."""
    what, name = f"{mine.WHAT} {mine.id}", registry.info.name
    if (lost := why_transport_lost(registry, what)) is not None:
        return lost
    try:
        now = table.read(mine.id)
    except DatapathError as error:
        return error
    forget = f"forget it: cxl-datapath cbd {mine.WHAT} stop {name} {mine.id}"
    if now is None or now.state == State.NONE:
        return DatapathError(Code.CORRUPT, what, f"was cleared out of transport {name} by somebody else", forget)
    if now.host_id != mine.host_id:
        return DatapathError(Code.CORRUPT, what, f"belongs to host {registry.host_name(now.host_id)} now", forget)
    why = "its entry was written anew by its own host, but not for this worker"
    return DatapathError(Code.CORRUPT, what, why, f"look at: cxl-datapath cbd {mine.WHAT} list {name}")


def why_transport_lost(registry: Registry, what: str) -> DatapathError | None:
    """The error for who uses it when the memory does not hold the transport any more that was attached; else None."""
    if registry.is_current():
        return None
    why = f"transport {registry.info.name} was lost: its memory was cleared, or formatted again"
    return DatapathError(Code.CORRUPT, what, why, LOST_HINT)
