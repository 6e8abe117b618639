# SPDX-License-Identifier: GPL-3.0-or-later
"""An example of a policy: which extents to move so that all hosts have about the same. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Iterable, Mapping, Sequence

from .device import Range


@dataclass(frozen=True)
class Piece:
    """An extent that one host has alone and nobody uses. ``offset`` in the region."""

    tag: str
    region: int
    offset: int
    size: int


@dataclass(frozen=True)
class Move:
    """``source`` gives the piece back, ``target`` gets the same place."""

    source: str
    target: str
    piece: Piece

    def row(self) -> dict[str, Any]:
        return {"from": self.source, "to": self.target, **asdict(self.piece)}


def pieces(extents: Iterable[Mapping[str, Any]], used: Sequence[Range], region_size: int) -> list[Piece]:
    """What may go of a host's extents, as dcd_extent_info shows them.

    :param used: ranges of the device that the host has mapped.
    """
    found = []
    for row in extents:
        first = row["region"] * region_size + row["offset"]
        in_use = any(at < first + row["size"] and first < at + size for at, size in used)
        if row["state"] == "accepted" and not row["shared"] and not in_use:
            found.append(Piece(row["tag"], row["region"], row["offset"], row["size"]))
    return found


def balance(held: Mapping[str, int], free: Mapping[str, Sequence[Piece]], tags: Mapping[str, Iterable[str]]) -> list[Move]:
    """Moves, one after the other, until none brings the fullest and the emptiest host nearer to each other.

    :param held: bytes that each host has; ``free``: what it could give; ``tags``: those that it has, which cannot come twice.
    """
    held, left = dict(held), {host: list(free.get(host, [])) for host in held}
    taken = {host: set(tags.get(host, [])) for host in held}
    moves: list[Move] = []
    while held:
        source = max(held, key=lambda host: (held[host], host))
        target = min(held, key=lambda host: (held[host], host))
        gap = held[source] - held[target]
        fit = [each for each in left[source] if each.size < gap and each.tag not in taken[target]]
        if not fit:
            break
        piece = min(fit, key=lambda each: (abs(2 * each.size - gap), each.tag))
        left[source].remove(piece)  # a piece moves once
        held[source], held[target] = held[source] - piece.size, held[target] + piece.size
        taken[source].discard(piece.tag)
        taken[target].add(piece.tag)
        moves.append(Move(source, target, piece))
    return moves
