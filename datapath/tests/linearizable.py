# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether what clients saw of a block can have happened: each request at one moment between its call and its answer.

A block is a register, and a history of a device is linearizable where that of each of its blocks is (Herlihy and Wing, 1990),
so blocks are judged one by one. The search is that of Wing and Gong with two improvements of Lowe ("Testing for
linearizability", 2017): configurations that were met are remembered, and a request takes effect only when an answer cannot wait
for it any longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    READ = "read"
    WRITE = "write"


@dataclass(frozen=True)
class Operation:
    """One request for one block. `value`: what was written, or what was seen. `end` None: nobody knows how it ended, so it may
    have happened at any time after `begin`, or never."""

    client: str
    kind: Kind
    value: int
    begin: float
    end: float | None

    def __str__(self) -> str:
        end = "?" if self.end is None else f"{self.end:.6f}"
        return f"{self.client} {self.kind.value} {self.value} [{self.begin:.6f}, {end}]"


class NotLinearizable(Exception):
    """No order of the requests explains what was seen."""


# The value of the block, and the open requests that have taken effect already.
_Configuration = tuple[int, frozenset[int]]


def check(history: Iterable[Operation], initial: int = 0) -> None:
    """Raises `NotLinearizable` with the first answer that nothing explains, and what was under way then."""
    operations = [each for each in history if each.end is not None or each.kind is Kind.WRITE]
    configurations: set[_Configuration] = {(initial, frozenset())}
    under_way: set[int] = set()
    for number, is_answer in _events(operations):
        if not is_answer:
            under_way.add(number)
            continue
        after = set(_with(operations, configurations, under_way, number))
        if not after:
            raise NotLinearizable(_report(operations, configurations, under_way, number))
        configurations = after
        under_way.remove(number)


def _events(operations: list[Operation]) -> Iterator[tuple[int, bool]]:
    """Calls and answers in the order of their times; of the same time, calls first."""
    events = [(each.begin, False, number) for number, each in enumerate(operations)]
    events += [(each.end, True, number) for number, each in enumerate(operations) if each.end is not None]
    return ((number, is_answer) for _, is_answer, number in sorted(events))


def _with(
    operations: list[Operation], configurations: set[_Configuration], under_way: set[int], wanted: int
) -> Iterator[_Configuration]:
    """The configurations in which `wanted` has taken effect, after as many others as it takes; without it among the open ones."""
    known, todo = set(configurations), list(configurations)
    while todo:
        value, done = todo.pop()
        if wanted in done:
            yield value, done - {wanted}
            continue
        for number in under_way - done:
            each = operations[number]
            if each.kind is Kind.READ and each.value != value:
                continue
            reached = (each.value, done | {number})
            if reached not in known:
                known.add(reached)
                todo.append(reached)


def _report(operations: list[Operation], configurations: set[_Configuration], under_way: set[int], wanted: int) -> str:
    possible = ", ".join(sorted({str(value) for value, _ in configurations}))
    others = "; ".join(str(operations[number]) for number in sorted(under_way - {wanted})) or "nothing"
    return f"{operations[wanted]}: the block held one of {possible}, and under way were: {others}"
