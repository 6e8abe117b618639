# SPDX-License-Identifier: GPL-3.0-or-later
"""What works in a topology, and not as one may think."""

from __future__ import annotations

from collections import Counter

from .fabric import plan_fabric
from .records import Topology, root_of

#: HDM decoders of a host bridge and of a switch in QEMU: as many regions lead through it at one time.
DECODERS = 4


def warnings(topology: Topology) -> list[str]:
    """What works, and not as one may think."""
    found: dict[str, None] = {}
    for host in topology.hosts[:1] if not topology.memories else topology.hosts:
        fabric, _ = plan_fabric(topology, host.name)
        last = fabric.windows[-1].targets if fabric.windows else ()
        below: Counter[str] = Counter()
        for memory in topology.memories_of(host.name):
            bridge = root_of(memory.parent, topology.above)
            below[bridge] += 1
            if memory.size and len(memory.hosts) > 1 and bridge not in last:
                found.setdefault(
                    f"memories: {memory.name} is shared below {bridge}, and the last window is not above it: QEMU emulates each "
                    "access there, which is slow and not atomic between hosts; put the window of shared persistent memory last"
                )
        for bridge, count in below.items():
            if count > DECODERS:
                found.setdefault(
                    f"bridges: {count} devices below {bridge}, which has decoders for {DECODERS} regions at one time"
                )
    return list(found)
