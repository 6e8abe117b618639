# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs the decoders between windows and devices, one route at a time: devices share those of bridges and switches."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from .decoder import Decoders
from .payloads import Range
from .ranges import overlap
from .registers import Registers
from .route import Stage, is_intact, plan_release, plan_route


@dataclass(frozen=True)
class Hop:
    """A host bridge or switch with decoders. `port`: number of its port that leads on. `registers`: maps its component registers,
    which begin at `place`, for a moment: a mapping that is held dies when the kernel takes the registers for itself."""

    name: str
    port: int
    place: int
    registers: Callable[[], AbstractContextManager[Registers]]


class Leader:
    """`taken`: ranges of host addresses that others have."""

    def __init__(self, taken: Callable[[], list[Range]] = list) -> None:
        self._taken = taken
        self._lock = threading.Lock()
        self._left: set[tuple[str, Range]] = set()

    def check(self, hops: Sequence[Hop]) -> None:
        """Raises where the decoders on the way cannot be had, before a device is taken for nothing."""
        with self._lock, contextlib.ExitStack() as stack:
            _decoders(hops, stack)

    def lead(self, hops: Sequence[Hop], device: Decoders, size: int, window: Range) -> tuple[Range, bool]:
        """Leads `size` bytes of the window to the device, address 0 first; the range, and False when it was led there already."""
        with self._stages(hops, device) as (stages, decoders):
            route = plan_route(stages, size, window, self._taken())
            done = []
            try:
                for write in route.writes:
                    decoders[write.stage].commit(write.number, route.range, stages[write.stage].leads)
                    done.append(write)
            except BaseException:
                for write in reversed(done):
                    decoders[write.stage].uncommit(write.number)
                raise
            self._left -= {(stage.name, route.range) for stage in stages}
            return route.range, bool(route.writes)

    def unlead(self, hops: Sequence[Hop], device: Decoders, range_: Range) -> None:
        """Frees the decoders of a route. Below others they stay, and go with those."""
        with self._stages(hops, device) as (stages, decoders):
            writes = plan_release(stages, range_, self._dead(stages))
            for write in writes:
                decoders[write.stage].uncommit(write.number)
            gone = {(stages[write.stage].name, stages[write.stage].decoders[write.number].range) for write in writes}
            ours = {(stage.name, range_) for stage in stages[:-1] if is_intact([stage], range_)}
            self._left = (self._left | ours) - gone

    def is_intact(self, hops: Sequence[Hop], device: Decoders, range_: Range) -> bool:
        """Whether the route is as it was made."""
        with self._stages(hops, device) as (stages, _):
            return is_intact(stages, range_)

    def _dead(self, stages: Sequence[Stage]) -> set[tuple[str, Range]]:
        """What was left and nobody has taken since. Notes of what is not there any more go."""
        there = {(stage.name, decoder.range) for stage in stages for decoder in stage.decoders if decoder.committed}
        names = {stage.name for stage in stages}
        self._left = {each for each in self._left if each[0] not in names or each in there}
        taken = self._taken()
        return {each for each in self._left if not overlap([each[1]], taken)}

    @contextlib.contextmanager
    def _stages(self, hops: Sequence[Hop], device: Decoders) -> Iterator[tuple[list[Stage], list[Decoders]]]:
        with self._lock, contextlib.ExitStack() as stack:
            decoders = [*_decoders(hops, stack), device]
            ports = [*(hop.port for hop in hops), 0]
            yield [Stage(each.name, port, each.all()) for each, port in zip(decoders, ports, strict=True)], decoders


def _decoders(hops: Sequence[Hop], stack: contextlib.ExitStack) -> list[Decoders]:
    return [Decoders(stack.enter_context(hop.registers()), hop.place, hop.name, device=False) for hop in hops]
