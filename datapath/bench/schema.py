# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of ``latest.json``; nothing else is ever written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_ROW = {"name", "unit", "median", "p99", "runs", "limit", "peers", "ratios"}
_ENVIRONMENT = {
    "date",
    "commit",
    "cpu",
    "cores",
    "hypervisor",
    "kernel",
    "coherence",
    "load_before",
    "runs",
    "seconds",
    "versions",
}


def problems(document: Any, names: Sequence[str], min_runs: int) -> list[str]:
    """What is wrong with a document that must have these rows, in this order; empty when nothing is."""
    if not (isinstance(document, dict) and document.keys() == {"environment", "results"}):
        return ["the document is not {environment, results}"]
    environment, results = document["environment"], document["results"]
    if not (isinstance(environment, dict) and isinstance(results, list) and all(isinstance(row, dict) for row in results)):
        return ["environment is no object, or results no list of objects"]
    found = [f"environment lacks {name}" for name in sorted(_ENVIRONMENT - environment.keys())]
    if [row.get("name") for row in results] != list(names):
        found.append(f"the rows are not {', '.join(names)}")
    return found + [f"{row.get('name')}: {what}" for row in results for what in _row(row, min_runs)]


def _row(row: dict[str, Any], min_runs: int) -> list[str]:
    if row.keys() != _ROW:
        return [f"has {', '.join(sorted(row))}"]
    found = []
    if not (isinstance(row["unit"], str) and row["unit"]):
        found.append("has no unit")
    if not (type(row["runs"]) is int and row["runs"] >= min_runs):
        found.append(f"has {row['runs']} runs, not {min_runs} or more")
    found += [f"{name} is {row[name]!r}" for name in ("median", "p99") if not _number(row[name])]
    if not (row["limit"] is None or (_number(row["limit"]) and row["limit"] > 0)):
        found.append(f"limit is {row['limit']!r}")
    return found or _ratios(row)


def _ratios(row: dict[str, Any]) -> list[str]:
    peers, ratios = row["peers"], row["ratios"]
    if not (isinstance(peers, dict) and isinstance(ratios, dict) and peers.keys() == ratios.keys()):
        return ["peers and ratios name different things"]
    bad = [name for name, value in peers.items() if not (_number(value) and value > 0)]
    wrong = [name for name in peers if name not in bad and not _same(ratios[name], row["median"] / peers[name])]
    return [f"peer {name} has no figure" for name in bad] + [f"ratio to {name} is not ours over theirs" for name in wrong]


def _number(value: object) -> bool:
    """A finite number that is not negative: an idle process may take no time at all."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _same(value: object, expected: float) -> bool:
    return _number(value) and math.isclose(float(str(value)), expected, rel_tol=1e-6)
