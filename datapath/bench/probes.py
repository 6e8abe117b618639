# SPDX-License-Identifier: GPL-3.0-or-later
"""How one figure is taken: a probe is data, ``measure`` runs the program that it names and reads its JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from .errors import TIMEOUT_S, BenchError, output_of

SPAN = 128 << 20  # bytes of every device, more than common caches hold
_STREAM_BYTES = 1 << 16


@dataclass(frozen=True)
class Sample:
    """One run. ``p99`` is in the unit of ``value``: for a rate it is what requests at the 99th percentile of latency get,
    requests in flight / latency. ``limit``: what the machine allowed just then, where the program took that, too."""

    value: float
    p99: float
    limit: float | None = None


@dataclass(frozen=True)
class Load:
    """``block`` bytes a request, ``depth`` requests in flight in each of ``queues``; small blocks at random places."""

    op: str
    block: int
    depth: int
    queues: int = 1

    @property
    def unit(self) -> str:
        return "GB/s" if self.block >= _STREAM_BYTES else "IOPS"

    def sample(self, iops: float, p99_us: float) -> Sample:
        factor = self.block / 1e9 if self.unit == "GB/s" else 1.0
        return Sample(iops * factor, self.depth * self.queues * 1e6 / p99_us * factor)


@dataclass(frozen=True)
class Figure:
    """A subcommand of cxl-bench whose value is the figure. ``seconds``: the least that it takes to see something."""

    command: str
    options: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Direct:
    """The direct API: queues in one process, the backend in another, over a file in memory."""

    load: Load
    coherence: str = "hardware"
    data_crc: bool = True


@dataclass(frozen=True)
class Nbd:
    """An NBD server of ``servers``, by name; one connection."""

    server: str
    load: Load


@dataclass(frozen=True)
class Uring:
    """io_uring with O_DIRECT on a file in memory: what the kernel does without us."""

    load: Load


@dataclass(frozen=True)
class Cblk:
    """The block library on a user-space LUN of ``servers``, by name, over a file in memory."""

    server: str
    load: Load


Probe = Union[Figure, Direct, Nbd, Uring, Cblk]


@dataclass(frozen=True)
class Tools:
    """The programs that measure, and the URIs of the servers by name."""

    cxl_bench: Path
    nbd_load: Path
    cblk_bench: Path
    servers: dict[str, str] = field(default_factory=dict)


def command(probe: Probe, tools: Tools, seconds: float) -> list[str | Path]:
    """What to run for so many seconds."""
    if isinstance(probe, Figure):
        return [tools.cxl_bench, probe.command, *probe.options, "--seconds", f"{max(seconds, probe.seconds):g}"]
    load = probe.load
    if isinstance(probe, Nbd):
        uri = tools.servers[probe.server]
        return [tools.nbd_load, uri, load.op, str(load.block), str(load.depth), f"{seconds:g}"]
    if isinstance(probe, Cblk):
        return [tools.cblk_bench, tools.servers[probe.server], load.op, str(load.depth), f"{seconds:g}"]
    if isinstance(probe, Uring):
        plain = {"op": load.op, "bs": load.block, "qd": load.depth, "span": SPAN, "seconds": f"{seconds:g}"}
        return [tools.cxl_bench, "kernel", *_options(plain)]
    options = {"op": load.op, "bs": load.block, "qd": load.depth, "queues": load.queues, "span": SPAN}
    options |= {"coherence": probe.coherence, "data-crc": int(probe.data_crc), "seconds": f"{seconds:g}"}
    return [tools.cxl_bench, "direct", *_options(options)]


def _options(options: Mapping[str, object]) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


def measure(probe: Probe, tools: Tools, seconds: float) -> Sample:
    """One run of one probe.

    :raises BenchError: when the program fails or says something else than its figures.
    """
    words = command(probe, tools, seconds)
    name = " ".join(str(word) for word in (Path(words[0]).name, *words[1:]))
    text = output_of(words, "run it by hand: " + name, timeout=TIMEOUT_S + seconds)
    try:
        return _sample(probe, json.loads(text))
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        raise BenchError(name, f"printed no result: {text[:200]!r}", "build it anew: rm -r build/bench") from None


def _sample(probe: Probe, said: dict[str, Any]) -> Sample:
    if isinstance(probe, Figure):
        limit = float(said["limit"]) if "limit" in said else None
        return Sample(float(said["value"]), float(said["p99"]), limit)
    iops = said["value"] if isinstance(probe, Nbd) else said["iops"]
    return probe.load.sample(float(iops), float(said["p99"]))
