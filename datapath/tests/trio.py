# SPDX-License-Identifier: GPL-3.0-or-later
"""Three hosts over one memory, and what they see of each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hosts import Host, wait_until
from lab import Lab
from verifying_writer import Background

LEASE_MS = 1000
MANY = 1500  # requests that write each block of the disk several times: what came late would be seen
T = {"transport": "pool0"}
ONE = T | {"id": 0}
START = T | {"backend": 0, "frontend": "nbdkit"}


class Trio(Lab):
    """node1, node2 and node3 in transport pool0, with a short lease."""

    def __init__(self, memory: Path, folder: Path, make_host: Callable[..., Host], **geometry: int) -> None:
        self.memory = str(memory)
        self.folder = folder
        self.node1, self.node2, self.node3 = self.nodes = [make_host(f"node{number}") for number in (1, 2, 3)]
        settings = {"ring_depth": 16, "lease_ms": LEASE_MS, **geometry}
        self.node1.call("cbd.transport.format", memory=self.memory, name="pool0", **settings)
        for node in self.nodes:
            node.call("cbd.transport.register", memory=self.memory)

    def host_id(self, name: str) -> int:
        return next(row["id"] for row in self.node3.call("cbd.host.list", **T) if row["name"] == name)

    def path_state(self) -> str:
        return str(self.node2.worker("blkdev", "pool0", 0)["info"]["path_state"])


def progress(writer: Background, count: int = 1) -> None:
    before = writer.requests
    wait_until(lambda: writer.requests >= before + count, f"the writer goes on: {writer.writer.figures()}")


def sees(observer: Host, name: str) -> bool:
    return any(row["name"] == name and row["alive"] is True for row in observer.call("cbd.host.list", **T))


def backend_row(host: Host) -> dict[str, Any]:
    """The one entry of a backend, beside which there may be what a host lost."""
    (row,) = [row for row in host.call("cbd.backend.list", **T) if row["state"] != "lost"]
    return dict(row)


def taken_over(host: Host) -> bool:
    """Whether the host knows, and says, that its backend belongs to node3 now."""
    rows = host.call("cbd.backend.list", **T)
    if [(row["host"], row["state"]) for row in rows] != [("node3", "running"), (host.name, "lost")]:
        return False
    worker = rows[1]["worker"]
    return worker["state"] != "running" and "node3" in (worker["error"] or {}).get("message", "")
