#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a host takes to accept and to give back an extent: python3 tests/scenarios/dcd_latency.py LAB HOST [DEVICE [ROUNDS]]

Offers a block at the end of region 0, asks QEMU until the host has accepted it, and takes it back in the same way. One virsh
serves all requests, so that a question costs little more than QEMU's own millisecond; the times are from before the request until
the first answer that shows its effect. The host's daemon looks at the device every millisecond.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

MIB = 1 << 20
EXTENT = {"offset": 510 * MIB, "len": 2 * MIB}
IMPOSSIBLE = {"offset": 0, "len": 0}


class Qemu:
    """QMP of a domain, through one interactive virsh."""

    def __init__(self, domain: str, device: str) -> None:
        command = ["virsh", "-q", "-c", "qemu:///system"]
        self._domain, self._device = domain, f"/machine/peripheral/cxl-dev.{device}"
        self._virsh = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command: str, policy: dict[str, object], extents: list[dict[str, int]]) -> str:
        """QEMU's complaint, or ""."""
        arguments = {"path": self._device, "host-id": 0, "region": 0, "extents": extents, **policy}
        line = json.dumps({"execute": command, "arguments": arguments})
        assert self._virsh.stdin is not None and self._virsh.stdout is not None
        self._virsh.stdin.write(f"qemu-monitor-command {self._domain} '{line}'\n")
        self._virsh.stdin.flush()
        while not (answer := self._virsh.stdout.readline()).startswith("{"):
            assert answer, "virsh ended"
        return str(json.loads(answer).get("error", {}).get("desc", ""))

    def add(self, *extents: dict[str, int]) -> str:
        return self.ask("cxl-add-dynamic-capacity", {"selection-policy": "prescriptive"}, list(extents))

    def release(self, *extents: dict[str, int]) -> str:
        policy = {"removal-policy": "prescriptive", "forced-removal": False}
        return self.ask("cxl-release-dynamic-capacity", policy, list(extents))


def timed(act: Callable[[], str], is_done: Callable[[], bool]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    said = act()
    assert not said, said
    while not is_done():
        assert time.perf_counter() - start < 60, "the host does not answer"
    return (time.perf_counter() - start) * 1e3


def measure(domain: str, device: str, rounds: int) -> dict[str, list[float]]:
    qemu = Qemu(domain, device)
    found: dict[str, list[float]] = {"add to accepted": [], "release to released": [], "question alone": []}
    for _ in range(rounds):
        found["add to accepted"].append(timed(lambda: qemu.add(EXTENT), lambda: "accessible" in qemu.add(EXTENT, IMPOSSIBLE)))
        found["question alone"].append(timed(lambda: "", lambda: "accessible" in qemu.add(EXTENT, IMPOSSIBLE)))
        found["release to released"].append(
            timed(lambda: qemu.release(EXTENT), lambda: "0 length" in qemu.add(EXTENT, IMPOSSIBLE))
        )
    return found


def report(found: dict[str, list[float]]) -> str:
    lines = [f"{'milliseconds':20} {'n':>5} {'min':>7} {'p50':>7} {'p90':>7} {'p99':>7} {'max':>7}"]
    for name, unsorted in found.items():
        times = sorted(unsorted)
        shares = [times[min(int(len(times) * share), len(times) - 1)] for share in (0.0, 0.5, 0.9, 0.99, 1.0)]
        lines.append(f"{name:20} {len(times):5} " + " ".join(f"{value:7.1f}" for value in shares))
    return "\n".join(lines)


if __name__ == "__main__":
    lab, host, device, rounds = [*sys.argv[1:], *["pool0", "200"][len(sys.argv) - 3 :]]
    print(report(measure(f"cxl-lab.{lab}.{host}", device, int(rounds))))
