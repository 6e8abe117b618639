# SPDX-License-Identifier: GPL-3.0-or-later
"""One time line of what the fabric manager did and what the hosts saw. Pure."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

FABRIC = "fabric"


def stamp(seconds: float) -> str:
    """Seconds since the epoch as UTC with milliseconds; sorts as text."""
    whole = int(seconds)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{int((seconds - whole) * 1000):03}Z"


def merged(log: str, events: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Lines ``time who what``, oldest first. The clocks are those of the machines.

    :param log: the fabric manager's own.
    :param events: of each host, as its daemon shows them.
    """
    rows = []
    for line in log.splitlines():
        when, _, what = line.partition(" ")
        rows.append((when, FABRIC, what))
    for host, seen in events.items():
        for event in seen:
            ranges = " ".join(str(each) for each in event.get("ranges", []))
            rows.append((stamp(float(event["time"])), host, f"{event['what']} {ranges}".strip()))
    width = max((len(who) for _, who, _ in rows), default=0)
    # What a host says is another machine's text: no control characters reach a terminal.
    return ["".join(c if c.isprintable() else "?" for c in f"{when}  {who:{width}}  {what}") for when, who, what in sorted(rows)]
