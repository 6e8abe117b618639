# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of bytes as sorted lists of (first, length). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from .payloads import Range


def union(ranges: Iterable[Range]) -> list[Range]:
    """Sorted, neighbours and overlaps joined, empty ones left out."""
    joined: list[Range] = []
    for first, length in sorted(each for each in ranges if each[1] > 0):
        if joined and first <= sum(joined[-1]):
            last = joined[-1]
            joined[-1] = (last[0], max(sum(last), first + length) - last[0])
        else:
            joined.append((first, length))
    return joined


def intersection(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    cuts = []
    others = union(other)
    for first, length in union(one):
        for at, size in others:
            low, high = max(first, at), min(first + length, at + size)
            if low < high:
                cuts.append((low, high - low))
    return cuts


def difference(one: Iterable[Range], other: Iterable[Range]) -> list[Range]:
    left = union(one)
    for at, size in union(other):
        cut = []
        for first, length in left:
            cut += [(first, min(at, first + length) - first), (max(first, at + size), first + length - max(first, at + size))]
        left = [each for each in cut if each[1] > 0]
    return left


def covers(ranges: Iterable[Range], wanted: Range) -> bool:
    return not difference([wanted], ranges)


def overlap(one: Iterable[Range], other: Iterable[Range]) -> bool:
    return bool(intersection(one, other))


def total(ranges: Iterable[Range]) -> int:
    return sum(length for _, length in ranges)
