# SPDX-License-Identifier: GPL-3.0-or-later
"""Bar charts as SVG, without a library: what a reader asks first, and nothing that needs a legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from .cases import FRONT_END, LAB_NAMES, LUN, PEERS
from .table import figure

_WIDTH, _LABEL, _BAR, _GAP, _TOP = 760, 250, 22, 8, 44
_ROOM = 90  # for the figure behind the longest bar
_COLOURS = {"ours": "#2b6cb0", "theirs": "#a0aec0", "limit": "#dd6b20"}


@dataclass(frozen=True)
class Bar:
    """``kind``: ours, theirs or limit."""

    label: str
    value: float
    kind: str


def plots(document: dict[str, Any]) -> dict[str, str]:
    """File names and SVG texts."""
    rows = {row["name"]: row for row in document["results"]}
    made = {
        "speedup.svg": chart("Times as fast as NBD over a unix socket (nbdkit memory, libnbd)", _speedups(rows)),
        "latency.svg": chart("4 KiB read, one at a time: microseconds, shorter is better", _latencies(rows)),
        "stream.svg": chart("1 MiB reads, four in flight: GB/s, longer is better", _streams(rows)),
    }
    if LAB_NAMES[0] in rows:
        made["lab.svg"] = chart("In the lab: times as fast as the kernel's NBD over TCP", _lab(rows))
    return made


def _speedups(rows: dict[str, Any]) -> list[Bar]:
    names = [name for name in rows if name.startswith(("direct_", f"{FRONT_END}_", f"{LUN}_"))]
    return [*(Bar(name, rows[name]["ratios"][PEERS[0]], "ours") for name in names), Bar("NBD over a unix socket", 1.0, "theirs")]


def _latencies(rows: dict[str, Any]) -> list[Bar]:
    row = rows["direct_4k_qd1_read"]
    bars = [Bar("round trip of the ring", 1e6 / row["limit"], "limit"), Bar("direct API", 1e6 / row["median"], "ours")]
    bars.append(Bar("block library on a LUN", 1e6 / rows[f"{LUN}_4k_qd1_read"]["median"], "ours"))
    bars.append(Bar("nbdkit with our plugin", 1e6 / rows[f"{FRONT_END}_4k_qd1_read"]["median"], "ours"))
    return bars + [Bar(_named(peer), 1e6 / row["peers"][peer], "theirs") for peer in PEERS]


def _streams(rows: dict[str, Any]) -> list[Bar]:
    row = rows["direct_1m_read"]
    bars = [Bar("memcpy / copies needed", row["limit"], "limit"), Bar("direct API", row["median"], "ours")]
    bars.append(Bar("nbdkit with our plugin", rows[f"{FRONT_END}_1m_read"]["median"], "ours"))
    return bars + [Bar(_named(peer), row["peers"][peer], "theirs") for peer in PEERS]


def _lab(rows: dict[str, Any]) -> list[Bar]:
    return [*(Bar(name, rows[name]["ratios"]["nbd_tcp"], "ours") for name in LAB_NAMES), Bar("NBD over TCP", 1.0, "theirs")]


def _named(peer: str) -> str:
    return {"nbd_unix": "nbdkit memory, unix socket", "nbd_tcp": "nbdkit memory, TCP loopback"}[peer]


def chart(title: str, bars: Sequence[Bar]) -> str:
    """Horizontal bars from zero, each with its figure."""
    longest = max(bar.value for bar in bars) or 1.0
    height = _TOP + len(bars) * (_BAR + _GAP) + _GAP
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
    ]
    for index, bar in enumerate(bars):
        top = _TOP + index * (_BAR + _GAP)
        width = max(1.0, (_WIDTH - _LABEL - _ROOM) * bar.value / longest)
        middle = top + _BAR - 6
        lines.append(f'<text x="{_LABEL - 8}" y="{middle}" text-anchor="end">{escape(bar.label)}</text>')
        lines.append(f'<rect x="{_LABEL}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{_COLOURS[bar.kind]}"/>')
        lines.append(f'<text x="{_LABEL + width + 6:.1f}" y="{middle}">{figure(bar.value)}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"
