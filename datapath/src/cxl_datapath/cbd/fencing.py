# SPDX-License-Identifier: GPL-3.0-or-later
"""Fences: incarnations of a host that are dead for ever, whatever they still believe (docs/cbd-format.md, "Fences")."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import Code, DatapathError
from .layout import U32_MAX
from .lines import FENCE_OFF, Fence
from .registry import Registry

_LOOKS = 3  # a line that somebody is writing is whole at the next look
_LOOK_S = 0.001
_TRIES = 20
_SETTLE_S = 0.01  # longer than the store of a host takes that looked at the line before ours was there


def fenced_epoch(registry: Registry, host_id: int, sleep: Callable[[float], None] = time.sleep) -> int:
    """The last dead epoch of a host; 0 while there is none, and when the line stays unreadable. Raises `range`."""
    for look in range(_LOOKS):
        if look:
            sleep(_LOOK_S)
        if (line := registry.fence(host_id)) is not None:
            return line.epoch
    return 0


def is_fenced(registry: Registry, host_id: int, host_epoch: int) -> bool:
    """Whether this incarnation is dead for ever. Epoch 0, and a host that the transport has no entry for, never lived."""
    return not 0 <= host_id < registry.hosts.count or fenced_epoch(registry, host_id) >= host_epoch


def fence(registry: Registry, host_id: int, epoch: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """Declares the incarnations up to `epoch` dead; returns when every host sees it. Never lowers the line.

    The caller saw the incarnation `epoch` dead for a whole lease (`Liveness.alive(host_id, epoch)` is False). What the dead host
    had in hand may still reach its medium: who takes over from it waits one lease after this. Raises `range`, `failed`.
    """
    if not 1 <= epoch <= U32_MAX:
        raise DatapathError(Code.RANGE, f"host {registry.host_name(host_id)}", f"epoch {epoch} is not possible")
    for _ in range(_TRIES):
        if fenced_epoch(registry, host_id, sleep) >= epoch:
            return
        registry.write_fence(host_id, Fence(epoch))
        sleep(_SETTLE_S)  # before we believe it: who fences an earlier incarnation at this moment may overwrite it
    hint = "somebody else writes this line; look for a host with another version, or format the transport again"
    raise DatapathError(Code.FAILED, f"host {registry.host_name(host_id)}", f"its fence does not stay at epoch {epoch}", hint)


def refuse_fenced(registry: Registry, host_id: int, host_epoch: int, name: str) -> None:
    """Raises `busy` when this incarnation, our own one, called `name`, is fenced."""
    if is_fenced(registry, host_id, host_epoch):
        why = f"was declared dead by another host: its heartbeat stood still for {registry.info.lease_s:g} s"
        hint = "it registers again by itself; was it suspended, or the machine overloaded?"
        raise DatapathError(Code.BUSY, f"host {name}", why, hint)


def fence_line_off(registry: Registry, host_id: int) -> int:
    """Offset of the fence line in the transport, for the handlers in the C core. Raises `range`."""
    return registry.hosts.page(host_id) + FENCE_OFF
