# SPDX-License-Identifier: GPL-3.0-or-later
"""The results as a table, ratios first: on a terminal, and in Markdown for the document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cases import KERNEL, PEERS, TARGETS, Target

_BESIDE = (*PEERS, KERNEL)
HEAD = ("name", *(f"x {peer}" for peer in _BESIDE), "of limit", "median", "unit", "p99", "target")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table under ``HEAD``."""
    ratios = (f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "" for peer in _BESIDE)
    share = f"{row['median'] / row['limit']:.2f}" if row["limit"] else ""
    aims = "; ".join(_aim(row, target) for target in TARGETS.get(row["name"], ()))
    return row["name"], *ratios, share, figure(row["median"]), row["unit"], figure(row["p99"]), aims


def figure(value: float) -> str:
    """Three digits that matter; large numbers whole, in groups."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def met(row: dict[str, Any], target: Target) -> bool:
    """Whether a row reaches what is aimed at."""
    return target.at_least <= _value(row, target) <= target.at_most


def _value(row: dict[str, Any], target: Target) -> float:
    if target.of in ("median", "p99"):
        return float(row[target.of])
    return float(row["median"] / row["limit"] if target.of == "limit" else row["ratios"][target.of])


def _aim(row: dict[str, Any], target: Target) -> str:
    bound = f">= {target.at_least:.3g}" if target.at_least else f"<= {target.at_most:g}"
    return f"{target.of} {bound}: {'met' if met(row, target) else 'missed'}"


def text(document: dict[str, Any]) -> str:
    """For a terminal: columns of even width."""
    lines = [HEAD, *map(cells, document["results"])]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    left = {0, HEAD.index("unit"), HEAD.index("target")}
    aligned = ["  ".join(_pad(line, widths, left)).rstrip() for line in lines]
    return "\n".join([*aligned, "", *described(document["environment"])])


def _pad(line: Sequence[str], widths: Sequence[int], left: set[int]) -> list[str]:
    pairs = enumerate(zip(line, widths, strict=True))
    return [cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in pairs]


def markdown(document: dict[str, Any]) -> str:
    """For the document: the environment, then the table."""
    right = "---:"
    rule = ["---" if name in ("name", "unit", "target") else right for name in HEAD]
    lines = [HEAD, rule, *((f"`{name}`", *rest) for name, *rest in map(cells, document["results"]))]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*(f"* {line}" for line in described(document["environment"])), "", *table]) + "\n"


def busy(environment: dict[str, Any]) -> bool:
    """Whether others had processors when the run began, or come before us: both ends of a ring want a core each."""
    return bool(environment["load_before"] > environment["cores"] / 2 or environment["nice"] > 0)


def described(environment: dict[str, Any]) -> list[str]:
    """The environment in a few lines."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    virtual = "a virtual machine" if environment["hypervisor"] else "no virtual machine"
    load = f"load {environment['load_before']:g} before, {environment.get('load_after', 0):g} after, nice {environment['nice']}"
    runs = f"medians of {environment['runs']} runs of {environment['seconds']:g} s"
    lines = [
        f"{environment['date']}, commit {environment['commit']}, {runs}",
        f"{environment['cores']} cores of {environment['cpu']}, {virtual}, Linux {environment['kernel']}, {load}",
        f"coherence: {environment['coherence']}; {versions}",
    ]
    if busy(environment):
        lines.append(
            "the machine had other things to do: figures and ratios are those of a busy machine, measure again when it is idle"
        )
    if lab := environment.get("lab"):
        lines.append("lab: " + ", ".join(f"{name} {value}" for name, value in lab.items()))
    return lines
