# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims against what heads really hold. Pure.

A fabric manager claims before it offers and gives back after the release: when it dies in between, claims are left without an
extent ("stale"). An extent without a claim ("unclaimed") comes of a device that was changed past the fabric manager.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .state import Range, Span


@dataclass(frozen=True)
class Finding:
    """`stale`: claimed and not held, to be released. `unclaimed`: held and not claimed, to be claimed. `conflict`: held and not
    claimable, because `others` (bits of heads) have it: only a release on one of the devices helps."""

    kind: Literal["stale", "unclaimed", "conflict"]
    head: int
    first: int
    count: int
    others: int = 0


def audit(spans: Sequence[Span], held: Mapping[int, Sequence[Range]], blocks: int) -> list[Finding]:
    """The findings for the heads in `held`, by head and block; a head that is not in it is not judged.

    `held`: blocks that the head's device has accepted or is offering.
    """
    exclusive, shared = _words(spans)
    devices: dict[int, int] = {}  # block -> bits of the heads that hold it
    for head, ranges in held.items():
        for first, count in ranges:
            for block in range(max(first, 0), min(first + count, blocks)):
                devices[block] = devices.get(block, 0) | 1 << head
    found = []
    for head in sorted(held):
        bit = 1 << head
        for block in sorted(devices.keys() | exclusive.keys() | shared.keys()):
            claims = exclusive.get(block, 0) | shared.get(block, 0)
            others = (claims | devices.get(block, 0)) & ~bit
            has, claimed = bool(devices.get(block, 0) & bit), bool(claims & bit)
            if claimed and not has:
                found.append(Finding("stale", head, block, 1))
            elif has and not claimed:
                found.append(Finding("conflict" if others else "unclaimed", head, block, 1, others))
    return _merged(found)


def _words(spans: Sequence[Span]) -> tuple[dict[int, int], dict[int, int]]:
    exclusive, shared = {}, {}
    for span in spans:
        for block in range(span.first, span.first + span.count):
            exclusive[block], shared[block] = span.exclusive, span.shared
    return exclusive, shared


def _merged(findings: list[Finding]) -> list[Finding]:
    merged: list[Finding] = []
    for each in findings:
        last = merged[-1] if merged else None
        if last and (last.kind, last.head, last.others, last.first + last.count) == (
            each.kind,
            each.head,
            each.others,
            each.first,
        ):
            merged[-1] = Finding(last.kind, last.head, last.first, last.count + 1, last.others)
        else:
            merged.append(each)
    return merged
