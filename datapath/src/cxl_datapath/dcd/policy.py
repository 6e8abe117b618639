# SPDX-License-Identifier: GPL-3.0-or-later
"""What this host says to offers and requests. Pure.

No region, no accept. An offer is taken as far as it lies in the region, in whole blocks, on nothing that is held, and within the
limit. A request to give back what somebody uses is ignored, and on wish remembered until the last user lets go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .payloads import DcRegion, Event, Extent, Kind, Range
from .ranges import difference, intersection, overlap, total, union


@dataclass(frozen=True)
class Terms:
    """`regions` are those that decoders lead to; none means that there is no region yet. `limit`: bytes to hold at most."""

    regions: Sequence[DcRegion] = ()
    limit: int | None = None
    remember: bool = False


@dataclass
class Holdings:
    """`held` is the device's own list; `users` have ranges under a name; `asked` are remembered requests."""

    held: list[Range] = field(default_factory=list)
    users: dict[str, Range] = field(default_factory=dict)
    asked: list[Range] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    """What the fabric manager asked at once: one event, or a chain of them. `fault`: why an offer cannot be taken as a whole."""

    kind: Kind
    ranges: tuple[Range, ...]
    fault: str = ""


def requests(events: Sequence[Event]) -> list[Request]:
    """Events as requests. A chain that an overflow cut off, or that changes its kind, ends there."""
    found: list[Request] = []
    chain: list[Event] = []
    for event in events:
        if chain and chain[0].kind != event.kind:
            found.append(_request(chain))
            chain = []
        chain.append(event)
        if not event.more:
            found.append(_request(chain))
            chain = []
    return [*found, _request(chain)] if chain else found


def _request(chain: Sequence[Event]) -> Request:
    return Request(chain[0].kind, tuple(event.extent.range for event in chain), _fault([event.extent for event in chain]))


def _fault(extents: Sequence[Extent]) -> str:
    """Shared extents are numbered from 1 on (CXL 3.1, table 8-51): with one missing, the others are no memory in order."""
    numbers = sorted(extent.sequence for extent in extents)
    if any(numbers) and numbers != list(range(1, len(extents) + 1)):
        return "a gap in the sequence"
    return "several tags" if len({extent.tag for extent in extents}) > 1 else ""


def take(terms: Terms, holdings: Holdings, offered: Sequence[Range]) -> list[Range]:
    """The parts of an offer to accept; empty to refuse it."""
    taken: list[Range] = []
    for each in offered:
        region = next((r for r in terms.regions if r.base <= each[0] and sum(each) <= r.base + r.length), None)
        if region is None or each[1] <= 0 or (each[0] - region.base) % region.block or each[1] % region.block:
            continue
        if overlap([each], [*holdings.held, *taken]):
            continue
        room = each[1] if terms.limit is None else max(terms.limit - total(holdings.held) - total(taken), 0)
        if length := min(each[1], room // region.block * region.block):
            taken.append((each[0], length))
    return taken


def give(holdings: Holdings, asked: Sequence[Range], remember: bool) -> tuple[list[Range], list[Range]]:
    """What to give back of a request, and what to remember of it. An extent that is in use in part stays whole."""
    used = list(holdings.users.values())
    free = [each for each in asked if not overlap([each], used)]
    kept = [each for each in asked if overlap([each], used)]
    return intersection(free, holdings.held), intersection(kept, holdings.held) if remember else []


def due(holdings: Holdings) -> list[Range]:
    """What was asked for once and is in nobody's use any more."""
    return intersection(difference(holdings.asked, holdings.users.values()), holdings.held)


def remembered(holdings: Holdings, more: Sequence[Range]) -> list[Range]:
    """The requests to remember: those that are still held."""
    return intersection(union([*holdings.asked, *more]), holdings.held)
