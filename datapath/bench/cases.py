# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured, under which name, against whom, and what is aimed at. Every other file takes the names from here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .probes import SPAN, Cblk, Direct, Figure, Load, Nbd, Probe, Uring

PEERS = ("nbd_unix", "nbd_tcp")  # nbdkit's memory plugin, on a unix socket and over TCP on the loopback
KERNEL = "uring"  # O_DIRECT io_uring on a file of the same kind, for the rows that a program could do that way
LUN = "cblk"  # a user-space LUN
FRONT_END = "nbdkit"  # our plugin in nbdkit, on a unix socket
POOL = "kmem_blk"  # the volume of a pool of pages, by the same plugin on a unix socket
COPIES = 2  # of each byte: between the device and the shared memory, between that and the caller's buffer

LOADS = {
    "4k_qd1_read": Load("read", 4096, 1),
    "4k_qd1_write": Load("write", 4096, 1),
    "4k_qd32_read": Load("read", 4096, 32),
    "4k_qd32_write": Load("write", 4096, 32),
    "4k_qd32_mix": Load("mix", 4096, 32),
    "1m_read": Load("read", 1 << 20, 4),
    "1m_write": Load("write", 1 << 20, 4),
}
#: What the block library does on a LUN.
LUN_LOADS = ("4k_qd1_read", "4k_qd1_write", "4k_qd32_read", "4k_qd32_write")
#: What fio does in a lab, see roles/cxl_bench.
LAB_LOADS = tuple(name for name in LOADS if not name.endswith("_mix"))


@dataclass(frozen=True)
class Target:
    """``of``: a peer (the ratio to it), "limit" (the share of it), "median" or "p99" (the figure itself)."""

    of: str
    at_least: float = 0.0
    at_most: float = float("inf")


Limit = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Case:
    """One row. ``limit``: what the machine allows, from the medians of other rows; some probes take it beside their figure."""

    name: str
    unit: str
    ours: Probe
    peers: Mapping[str, Probe] = field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    limit: Limit | None = None


_TARGETS = {
    "4k_qd1_read": (Target("nbd_unix", at_least=8), Target("nbd_tcp", at_least=10)),
    "4k_qd32_read": (Target("nbd_unix", at_least=4), Target("nbd_tcp", at_least=4)),
    "1m_read": (Target("nbd_unix", at_least=1.5), Target("limit", at_least=0.8)),
}
_LUN_TARGETS = {
    "4k_qd1_read": (Target("nbd_unix", at_least=8), Target("limit", at_least=1 / 1.3)),
    "4k_qd1_write": (Target("nbd_unix", at_least=8), Target("limit", at_least=1 / 1.3)),
}
#: The same in a lab, against the kernel's NBD client over TCP.
LAB_TARGETS = {
    "4k_qd1_read": (Target("nbd_tcp", at_least=5),),
    "4k_qd32_read": (Target("nbd_tcp", at_least=5),),
    "1m_read": (Target("nbd_tcp", at_least=4),),
}


def _round_trips(name: str) -> Limit:
    """Requests per second if each took nothing but a round trip of the ring."""
    return lambda medians: 1e9 / medians[name]


def _limit(load: str, coherence: str) -> Limit | None:
    if load.startswith("1m"):
        return lambda medians: medians["limit_memcpy"] / COPIES
    return _round_trips(f"ring_rtt_{coherence}") if "qd1" in load else None


def _parts(medium: str) -> Limit:
    """Requests of 4 KiB per second if each took nothing but a round trip of the ring, the medium, and the caller's copy."""
    return lambda medians: 1e9 / (medians["ring_rtt_coherent"] + 1e3 * medians[medium] + 4096 / medians["limit_memcpy"])


def _limits() -> Iterator[Case]:
    yield Case("limit_memcpy", "GB/s", Figure("memcpy"))
    for op in ("read", "write"):
        yield Case(f"limit_p{op}_4k", "us", Figure("kernel", ("--how", "call", "--op", op, "--span", str(SPAN))))
    for name, coherence in (("coherent", "hardware"), ("flushed", "software")):
        yield Case(f"limit_pingpong_{name}", "ns", Figure("pingpong", ("--coherence", coherence)))
    for name, coherence in (("coherent", "hardware"), ("flushed", "software")):
        probe = Figure("ring-rtt", ("--coherence", coherence))
        yield Case(f"ring_rtt_{name}", "ns", probe, {}, (Target("limit", at_most=1.5),))


def _requests() -> Iterator[Case]:
    """Grouped by load, so that ours and theirs take turns."""
    for name, load in LOADS.items():
        peers = {peer: Nbd(peer, load) for peer in PEERS}
        yield Case(f"direct_{name}", load.unit, Direct(load), peers, _TARGETS.get(name, ()), _limit(name, "coherent"))
        if name in _TARGETS:
            yield Case(f"direct_{name}_nocrc", load.unit, Direct(load, data_crc=False), peers, (), _limit(name, "coherent"))
            flushed = Direct(load, coherence="software")
            yield Case(f"direct_{name}_flushed", load.unit, flushed, peers, (), _limit(name, "flushed"))
        yield Case(f"nbdkit_{name}", load.unit, Nbd(FRONT_END, load), peers)
        yield Case(f"kmem_blk_{name}", load.unit, Nbd(POOL, load), peers)
    for queues in (2, 4):
        load = Load("read", 4096, 32, queues)
        peers = {peer: Nbd(peer, LOADS["4k_qd32_read"]) for peer in PEERS}
        yield Case(f"direct_4k_qd32_read_q{queues}", load.unit, Direct(load), peers)


def _luns() -> Iterator[Case]:
    for name in LUN_LOADS:
        load = LOADS[name]
        peers: dict[str, Probe] = {PEERS[0]: Nbd(PEERS[0], load), KERNEL: Uring(load)}
        limit = _parts(f"limit_p{load.op}_4k") if load.depth == 1 else None
        yield Case(f"{LUN}_{name}", load.unit, Cblk(LUN, load), peers, _LUN_TARGETS.get(name, ()), limit)


def _waiting() -> Iterator[Case]:
    """Profiles: as shipped, with many channels, with ten times as many looks, and a request after a long sleep."""
    eager = ("--idle-cap-us", "100")
    yield Case("idle_cpu", "%", Figure("idle", seconds=0.1), targets=(Target("median", at_most=1),))
    yield Case("idle_cpu_16_channels", "%", Figure("idle", ("--channels", "16"), seconds=0.1), {}, (Target("median", at_most=1),))
    yield Case("idle_cpu_eager", "%", Figure("idle", eager, seconds=0.1))
    yield Case("wakeup", "us", Figure("wakeup", seconds=0.1), targets=(Target("p99", at_most=1000),))
    yield Case("wakeup_eager", "us", Figure("wakeup", eager, seconds=0.1))
    after_a_second = Figure("wakeup", ("--pause", "1.2"), seconds=0.1)
    yield Case("wakeup_after_1s", "us", after_a_second, targets=(Target("p99", at_most=1000),))


CASES = (*_limits(), *_requests(), *_luns(), *_waiting())
LAB_NAMES = tuple(f"lab_{name}" for name in LAB_LOADS)
TARGETS = {case.name: case.targets for case in CASES} | {f"lab_{name}": made for name, made in LAB_TARGETS.items()}
