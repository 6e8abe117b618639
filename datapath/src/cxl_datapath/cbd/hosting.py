# SPDX-License-Identifier: GPL-3.0-or-later
"""Registration of this host in a transport: which entry, which epoch, and the lines that go with it."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from ..errors import Code, DatapathError
from .claim import IDLE
from .fencing import fenced_epoch, is_fenced, refuse_fenced
from .layout import U32_MAX, HostEntry, State
from .lines import Bell, Heartbeat, Intent
from .liveness import watch
from .registry import Registry

_U64 = (1 << 64) - 1
LOST_GUIDE = 'docs/cbd.md, "A transport that was lost"'
LOST_HINT = f"what is in it has to be stopped, then it is registered again: {LOST_GUIDE}"
SETTLE_S = 0.1  # far longer than a host takes from its look at an entry to its own store
_TRIES = 40

Watch = Callable[[Callable[[int], Heartbeat | None], list[int], float], set[int]]  # as `liveness.watch`


def boot_id(path: Path = Path("/proc/sys/kernel/random/boot_id")) -> bytes:
    """16 bytes that change with each boot; zeros where the kernel does not tell."""
    try:
        return bytes.fromhex(path.read_text().strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return bytes(16)


@dataclass(frozen=True)
class Seat:
    """The entry that a host had last, and in which incarnation, as it remembers."""

    id: int
    epoch: int


@dataclass(frozen=True)
class Place:
    """An entry that a host may take. `before`: what is in it now. `rival`: it says running, so its heartbeat must stand still."""

    id: int
    epoch: int
    rival: bool
    before: HostEntry | DatapathError | None

    def holds(self, now: HostEntry | DatapathError | None) -> bool:
        """Whether nothing has changed in it."""
        return now == self.before or (isinstance(now, DatapathError) and isinstance(self.before, DatapathError))


Entries = list[HostEntry | DatapathError | None]


def plan_places(entries: Entries, fenced: Callable[[int], int], name: str) -> list[Place]:
    """The host's own old entry if there is one (running or cleared), else all free ones, never used ones first. Pure.

    `fenced(id)` is the last dead epoch of an entry: a new incarnation is above it. Raises `full`.
    """
    own, never, cleared = [], [], []
    for index, entry in enumerate(entries):
        if isinstance(entry, DatapathError):
            continue
        dead = fenced(index)
        place = Place(index, max(entry.epoch if entry else 0, dead) + 1, False, entry)
        if place.epoch > U32_MAX:
            continue  # used up
        if entry is None:
            never.append(place)
        elif entry.name == name:
            own.append(replace(place, rival=entry.state != State.NONE and entry.epoch > dead))
        elif entry.state == State.NONE:
            cleared.append(place)
    own.sort(key=lambda place: isinstance(place.before, HostEntry) and place.before.state == State.NONE)
    if places := own[:1] or never + cleared:
        return places
    hint = "unregister a host that is gone, from its own daemon, or clear a dead one: cxl-datapath cbd host clear"
    raise DatapathError(Code.FULL, f"host {name}", f"all {len(entries)} host entries are taken", hint)


def damaged_seat(registry: Registry, entries: Entries, name: str, seat: Seat | None) -> Place | None:
    """The damaged entry that this host had, where nobody else can have it since: another host would have beaten in it, and
    whoever cleared it would have fenced this one."""
    if seat is None or seat.id >= len(entries) or not registry.hosts.is_damaged(seat.id):
        return None
    if any(isinstance(entry, HostEntry) and entry.name == name and entry.state != State.NONE for entry in entries):
        return None
    dead, heartbeat = fenced_epoch(registry, seat.id), registry.heartbeat(seat.id)
    if heartbeat.epoch != seat.epoch if heartbeat else dead >= seat.epoch:
        return None
    epoch = max(seat.epoch, dead) + 1
    return Place(seat.id, epoch, seat.epoch > dead, entries[seat.id]) if epoch <= U32_MAX else None


def renamed_seat(entries: Entries, fenced: Callable[[int], int], name: str, seat: Seat | None) -> Place | None:
    """The entry that this host had under another name, as it left it: nobody fenced it, and this name has no entry that runs."""
    if seat is None or seat.id >= len(entries) or fenced(seat.id) >= seat.epoch or seat.epoch == U32_MAX:
        return None
    running = [entry for entry in entries if isinstance(entry, HostEntry) and entry.state != State.NONE]
    entry = entries[seat.id]
    if entry not in running or entry.epoch != seat.epoch or any(each.name == name for each in running):
        return None
    return Place(seat.id, seat.epoch + 1, True, entry)


class Registration:
    """This host in one transport: beats, rings its bell, and notices when it lost its entry."""

    def __init__(self, registry: Registry, entry: HostEntry) -> None:
        self._registry = registry
        self.entry = entry
        last, bell = registry.heartbeat(entry.id), registry.bell(entry.id)
        self._counter = last.counter if last else 0
        self._beaten: Heartbeat | None = None
        self._generation = bell.generation if bell else 0

    @property
    def id(self) -> int:
        return self.entry.id

    @property
    def epoch(self) -> int:
        return self.entry.epoch

    def fenced(self) -> bool:
        """Whether another host declared this incarnation dead; it must register again, above its fence."""
        return is_fenced(self._registry, self.id, self.epoch)

    def beat(self) -> None:
        """One heartbeat. Raises `busy` when this incarnation is fenced, and when somebody else is in its entry.

        An entry that nobody can read any more is ours still, in a transport that is: it is written again.
        """
        refuse_fenced(self._registry, self.id, self.epoch, self.entry.name)
        whole = self._registry.hosts.still(self.entry)
        if not whole and not (self._registry.hosts.is_damaged(self.id) and self._registry.is_current()):
            self._refuse("its entry in the transport is gone or another's: the transport was formatted or damaged", LOST_HINT)
        seen = self._registry.heartbeat(self.id)
        if self._beaten is not None and seen not in (self._beaten, None):
            self._refuse("another daemon beats in its entry", "give each daemon its own --host-name")
        if not whole:
            self._registry.hosts.write(self.entry)
        self._counter = (self._counter + 1) & _U64
        self._beaten = Heartbeat(self._counter, self.epoch)
        self._registry.beat(self.id, self._beaten)

    def _refuse(self, why: str, hint: str) -> NoReturn:
        raise DatapathError(Code.BUSY, f"host {self.entry.name}", why, hint)

    def ring(self) -> None:
        """Tells the peers that an entry of this host changed."""
        self._generation = (self._generation + 1) & _U64
        self._registry.ring(self.id, Bell(self._generation))

    def leave(self) -> None:
        """Gives the entry back; one that is not ours any more is left alone."""
        if not self.fenced() and self._registry.hosts.still(self.entry):
            self._registry.hosts.write(replace(self.entry, state=State.NONE))
            self.ring()


@dataclass(frozen=True)
class _Registrar:
    """Takes an entry that other hosts may want at the same moment, by its intent line (docs/cbd-format.md, "Registration")."""

    registry: Registry
    name: str
    boot: bytes
    settle_s: float  # how long a wish and an entry must stand before they count
    sleep: Callable[[float], None]
    watch: Watch
    seat: Seat | None

    def register(self) -> Registration:
        for attempt in range(_TRIES):
            self._check_current()
            places = self._places(self.registry.hosts.all())
            # Who lost an entry to another host goes for any free one, or all losers would meet again.
            place = random.choice(places) if attempt else places[0]
            if place.rival:
                self._refuse_rival(place.id)
            if (entry := self._take(place)) is not None:
                return self._begin(entry)
            # Long enough for the winner to write its entry, which a new wish in it would only disturb.
            self.sleep((2 + random.random()) * self.settle_s)
        hint = "try again; is a host of another version writing the intent lines?"
        raise DatapathError(Code.BUSY, f"host {self.name}", f"other hosts took each entry that it tried ({_TRIES} times)", hint)

    def _places(self, entries: Entries) -> list[Place]:
        if (own := damaged_seat(self.registry, entries, self.name, self.seat)) is not None:
            return [own]
        fenced = partial(fenced_epoch, self.registry)
        old = renamed_seat(entries, fenced, self.name, self.seat)
        if old is not None and not self._lives(old.id):  # one that lives is another host, whose state was copied
            return [replace(old, rival=False)]
        return plan_places(entries, fenced, self.name)

    def _check_current(self) -> None:
        """Raises `busy` when the transport is being formatted: its areas may be elsewhere from now on."""
        if not self.registry.is_current():
            name = self.registry.info.name
            raise DatapathError(Code.BUSY, f"transport {name}", "was formatted while this host registered", "register again")

    def _refuse_rival(self, host_id: int) -> None:
        if self._lives(host_id):
            why = f"is alive in transport {self.registry.info.name} already"
            raise DatapathError(Code.EXISTS, f"host {self.name}", why, "give each daemon its own --host-name")

    def _lives(self, host_id: int) -> bool:
        """Takes up to a lease."""
        return bool(self.watch(self.registry.heartbeat, [host_id], self.registry.info.lease_s))

    def _take(self, place: Place) -> HostEntry | None:
        """The entry once it is certainly ours; None when another host was there first."""
        wish = Intent(secrets.randbits(64))
        self.registry.write_intent(place.id, wish)
        self.sleep(self.settle_s)
        if self.registry.intent(place.id) != wish or not place.holds(self._now(place.id)):
            return None
        entry = HostEntry(State.RUNNING, place.id, place.epoch, self.name, self.boot)
        self.registry.hosts.write(entry)
        self.sleep(self.settle_s)
        return entry if self._now(place.id) == entry else None

    def _now(self, host_id: int) -> HostEntry | DatapathError | None:
        try:
            return self.registry.hosts.read(host_id)
        except DatapathError as error:
            return error

    def _begin(self, entry: HostEntry) -> Registration:
        self.registry.write_claim(entry.id, IDLE)  # an earlier incarnation may have left a ticket
        registration = Registration(self.registry, entry)
        registration.beat()
        registration.ring()
        # Whoever formats takes the info away before it looks for us, and we came before we look for the info.
        try:
            self._check_current()
        except DatapathError:
            registration.leave()
            raise
        return registration


def register(
    registry: Registry,
    name: str,
    boot: bytes,
    *,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
    watch_hosts: Watch = watch,
    seat: Seat | None = None,
) -> Registration:
    """Takes an entry of this host with a new epoch, also its `seat` that is damaged or has another name. Blocks up to one
    lease when an earlier incarnation must be seen dead.

    Raises `exists` while another daemon lives under this name, `full` when there is no entry.
    """
    return _Registrar(registry, name, boot, settle_s, sleep, watch_hosts, seat).register()
