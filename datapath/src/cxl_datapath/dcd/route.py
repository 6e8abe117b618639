# SPDX-License-Identifier: GPL-3.0-or-later
"""Which decoders to program between a window and a device, and which to free. Pure.

A route is a range of the window that every stage leads on: the host bridge to a root port, each switch to one of its ports, the
device to its own address 0. Hardware commits the decoders of a component one after the other and at rising addresses only, and
frees them in the reverse order (CXL 3.1, 8.2.4.20.12). So a decoder below one that is in use stays committed when its route goes,
until that one goes, too; it leads to a device that does not answer then. When the device comes back it gets the same addresses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from ..errors import Code, DatapathError
from .decoder import UNIT, Decoder
from .payloads import Range
from .ranges import overlap


@dataclass(frozen=True)
class Stage:
    """A component on the way. `leads`: number of the port that leads on, 0 of the device itself, the last stage."""

    name: str
    leads: int
    decoders: tuple[Decoder, ...]


@dataclass(frozen=True)
class Write:
    """A decoder of a stage (its place in the route) to be committed, or freed."""

    stage: int
    number: int


@dataclass(frozen=True)
class Route:
    """`range` of host addresses, and the decoders that are still to be committed, in this order: from the device up, so that no
    address leads anywhere before everything below is there."""

    range: Range
    writes: tuple[Write, ...]


def plan_route(stages: Sequence[Stage], size: int, window: Range, taken: Sequence[Range] = ()) -> Route:
    """Leads `size` bytes of the window to the device. A route that is there already is kept, or completed.

    `taken`: ranges of others that need not have a decoder yet. Raises `busy` when a decoder of the device leads elsewhere,
    `full` without a free decoder or enough addresses, `invalid` off the grid."""
    device = stages[-1]
    if size <= 0 or size % UNIT or window[0] % UNIT:
        what = f"{size:#x} bytes at {window[0]:#x} are not whole units of 256 MiB"
        raise DatapathError(Code.INVALID, f"decoder 0 of {device.name}", what)
    if size > window[1]:
        hint = "make the window larger in the topology"
        raise DatapathError(Code.FULL, "fixed memory window", f"has {window[1]:#x} bytes, the device needs {size:#x}", hint)
    if any(decoder.committed for decoder in device.decoders):
        return _kept(stages, size, window)
    bases = [*_left_over(stages[0], size, window, taken), *_free(stages, size, window, taken)]
    for base in bases:
        if (writes := _writes(stages, (base, size))) is not None:
            return Route((base, size), writes)
    raise _no_room(stages, size, window)


def plan_release(stages: Sequence[Stage], range_: Range, left: Collection[tuple[str, Range]] = ()) -> tuple[Write, ...]:
    """The decoders to free when a route goes, in this order: from the window down, in each stage from the last one on.

    `left`: ranges that stayed in a stage (its name) after their route had gone; they go with what was above them."""
    return tuple(Write(index, number) for index, stage in enumerate(stages) for number in _freed(stage, range_, left))


def is_intact(stages: Sequence[Stage], range_: Range) -> bool:
    """Whether every stage leads the range on; somebody else may have programmed a decoder again."""
    return all(any(decoder.is_plainly(range_, stage.leads) for decoder in stage.decoders) for stage in stages)


def _freed(stage: Stage, range_: Range, left: Collection[tuple[str, Range]]) -> Iterator[int]:
    for number in reversed(range(len(stage.decoders))):
        decoder = stage.decoders[number]
        if not decoder.committed:
            continue
        ours = decoder.is_plainly(range_, stage.leads) or (stage.name, decoder.range) in left
        if decoder.locked or not ours:
            return
        yield number


def _kept(stages: Sequence[Stage], size: int, window: Range) -> Route:
    """The device is led to already: from an earlier life of this daemon, or by somebody else."""
    first = stages[-1].decoders[0]
    inside = window[0] <= first.base and first.base + first.size <= sum(window)
    if inside and first.is_plainly((first.base, size), 0):
        # Above the device may be less: a daemon that ended half-way had begun at the device.
        writes = _writes(stages, first.range)
        if writes is not None:
            return Route(first.range, writes)
    hint = "destroy the region that has it (cxl destroy-region), or restart the machine"
    what = f"leads {first.size:#x} bytes at {first.base:#x} elsewhere already"
    raise DatapathError(Code.BUSY, f"decoder 0 of {stages[-1].name}", what, hint)


def _left_over(stage: Stage, size: int, window: Range, taken: Sequence[Range]) -> Iterator[int]:
    """Addresses that the first stage leads this way already, with nobody behind."""
    for decoder in stage.decoders:
        inside = window[0] <= decoder.base and decoder.base + size <= sum(window)
        if inside and decoder.is_plainly((decoder.base, size), stage.leads) and not overlap([decoder.range], taken):
            yield decoder.base


def _free(stages: Sequence[Stage], size: int, window: Range, taken: Sequence[Range]) -> Iterator[int]:
    """The lowest address in the window that keeps the order of every stage and is nobody's."""
    low, high = window[0], sum(window)
    for stage in stages:
        below, above = _bounds(stage)
        low, high = max(low, below), min(high, above)
    for base in sorted(-(-start // UNIT) * UNIT for start in (low, *map(sum, taken))):
        if low <= base and base + size <= high and not overlap([(base, size)], taken):
            yield base
            return


def _next(stage: Stage) -> int | None:
    """The only decoder that may be committed now: the lowest that is not."""
    return next((number for number, decoder in enumerate(stage.decoders) if not decoder.committed), None)


def _bounds(stage: Stage) -> Range:
    """Between which addresses the next decoder has to be; it can be below others, where somebody has freed one out of order."""
    number = _next(stage)
    if number is None:
        return 1 << 64, 0
    low = max((decoder.base + decoder.size for decoder in stage.decoders[:number]), default=0)
    return low, min((decoder.base for decoder in stage.decoders[number:] if decoder.committed), default=1 << 64)


def _writes(stages: Sequence[Stage], range_: Range) -> tuple[Write, ...] | None:
    """What is missing of a route, None where it cannot be had."""
    writes = []
    for index, stage in reversed(list(enumerate(stages))):
        if any(decoder.is_plainly(range_, stage.leads) for decoder in stage.decoders):
            continue
        number, (low, high) = _next(stage), _bounds(stage)
        if number is None or range_[0] < low or sum(range_) > high:
            return None
        writes.append(Write(index, number))
    return tuple(writes)


def _no_room(stages: Sequence[Stage], size: int, window: Range) -> DatapathError:
    for stage in stages:
        if _next(stage) is None:
            what = f"has {len(stage.decoders)} decoders, and all are in use"
            return DatapathError(Code.FULL, stage.name, what, "destroy a region below it, or plug the device in elsewhere")
    low = max(window[0], *(_bounds(stage)[0] for stage in stages))
    what = f"has no {size:#x} bytes in a row from {low:#x} to {sum(window):#x}, behind what the decoders on the way have"
    hint = "destroy the region that was made last, name a later window, or make the window larger in the topology"
    return DatapathError(Code.FULL, "fixed memory window", what, hint)
