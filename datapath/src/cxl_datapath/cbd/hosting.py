# SPDX-License-Identifier: GPL-3.0-or-later
"""Registration of this host in a transport: which entry, which epoch, and the lines that go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import Code, DatapathError
from .layout import HostEntry, State
from .lines import Bell, Heartbeat
from .liveness import watch
from .registry import Registry

_U64 = (1 << 64) - 1


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> bytes:
    """16 bytes that change with each boot; zeros where the kernel does not tell."""
    try:
        return bytes.fromhex(path.read_text().strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return bytes(16)


@dataclass(frozen=True)
class Place:
    """The entry that a host may take. `rival`: it says running, so its heartbeat must be seen still first."""

    id: int
    epoch: int
    rival: bool


def plan_place(entries: list[HostEntry | DatapathError | None], name: str) -> Place:
    """The host's own old entry if there is one (running or cleared), else the lowest free one. Pure."""
    own = [entry for entry in entries if isinstance(entry, HostEntry) and entry.name == name]
    for entry in sorted(own, key=lambda found: found.state == State.NONE):
        return Place(entry.id, entry.epoch % 0xFFFFFFFF + 1, entry.state != State.NONE)
    never = [index for index, entry in enumerate(entries) if entry is None]
    cleared = [entry for entry in entries if isinstance(entry, HostEntry) and entry.state == State.NONE]
    if never:
        return Place(never[0], 1, False)
    if cleared:
        return Place(cleared[0].id, cleared[0].epoch % 0xFFFFFFFF + 1, False)
    raise DatapathError(
        Code.FULL,
        f"host {name}",
        f"all {len(entries)} host entries are taken",
        "unregister a host that is gone, from its own daemon",
    )


class Registration:
    """This host in one transport: beats, rings its bell, and notices when it lost its entry."""

    def __init__(self, registry: Registry, entry: HostEntry) -> None:
        self._registry = registry
        self.entry = entry
        last, bell = registry.heartbeat(entry.id), registry.bell(entry.id)
        self._counter = last.counter if last else 0
        self._generation = bell.generation if bell else 0

    @property
    def id(self) -> int:
        return self.entry.id

    def beat(self) -> None:
        """One heartbeat. Raises `busy` when the entry is not ours any more: somebody formatted, or took the name over."""
        try:
            now = self._registry.hosts.read(self.id)
        except DatapathError:
            now = None
        if now is None or (now.epoch, now.name, now.boot_id, now.state) != (
            self.entry.epoch,
            self.entry.name,
            self.entry.boot_id,
            State.RUNNING,
        ):
            raise DatapathError(
                Code.BUSY,
                f"host {self.entry.name}",
                "its entry in the transport belongs to another incarnation now",
                "was the transport formatted?",
            )
        self._counter = (self._counter + 1) & _U64
        self._registry.beat(self.id, Heartbeat(self._counter, self.entry.epoch))

    def ring(self) -> None:
        """Tells the peers that an entry of this host changed."""
        self._generation = (self._generation + 1) & _U64
        self._registry.ring(self.id, Bell(self._generation))

    def leave(self) -> None:
        self._registry.hosts.write(replace(self.entry, state=State.NONE))
        self.ring()


def register(
    registry: Registry,
    name: str,
    boot: bytes,
    watch_hosts: Callable[[Callable[[int], Heartbeat | None], list[int], float], set[int]] = watch,
) -> Registration:
    """Takes the host's entry with a new epoch. Blocks up to one lease when an earlier incarnation must be seen dead.

    Raises `exists` while another daemon lives under this name, `full` when there is no entry.
    """
    place = plan_place(registry.hosts.all(), name)
    if place.rival and watch_hosts(registry.heartbeat, [place.id], registry.info.lease_s):
        transport = registry.info.name
        raise DatapathError(
            Code.EXISTS, f"host {name}", f"is alive in transport {transport} already", "give each daemon its own --host-name"
        )
    entry = HostEntry(State.RUNNING, place.id, place.epoch, name, boot)
    registry.hosts.write(entry)
    registration = Registration(registry, entry)
    registration.beat()
    registration.ring()
    return registration


def live_hosts(registry: Registry, except_name: str = "") -> list[str]:
    """Names of the hosts whose heartbeat moves; blocks up to one lease."""
    running = {index: entry.name for index, entry in registry.hosts.used().items() if entry.name != except_name}
    return sorted(running[index] for index in watch(registry.heartbeat, running, registry.info.lease_s))
