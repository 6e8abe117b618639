# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the result from what was taken: medians, and ours over theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from .cases import Case
from .probes import Sample
from .run import Samples


def rows(cases: Iterable[Case], samples: Samples) -> list[dict[str, Any]]:
    """One row for each case, in their order."""
    cases = list(cases)
    medians = {case.name: median(sample.value for sample in samples[case.ours]) for case in cases}
    return [
        row(
            case.name,
            case.unit,
            samples[case.ours],
            {name: samples[probe] for name, probe in case.peers.items()},
            case.limit(medians) if case.limit else _limit_beside(samples[case.ours]),
        )
        for case in cases
    ]


def _limit_beside(ours: Sequence[Sample]) -> float | None:
    """The median of the limits that were taken together with the figure."""
    found = [sample.limit for sample in ours if sample.limit is not None]
    return median(found) if found else None


def row(
    name: str, unit: str, ours: Sequence[Sample], peers: Mapping[str, Sequence[Sample]], limit: float | None = None
) -> dict[str, Any]:
    """The shape that ``schema`` checks."""
    middle = median(sample.value for sample in ours)
    theirs = {peer: median(sample.value for sample in taken) for peer, taken in peers.items()}
    return {
        "name": name,
        "unit": unit,
        "median": middle,
        "p99": median(sample.p99 for sample in ours),
        "runs": len(ours),
        "limit": limit,
        "peers": theirs,
        "ratios": {peer: middle / value for peer, value in theirs.items()},
    }
