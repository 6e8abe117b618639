# SPDX-License-Identifier: GPL-3.0-or-later
"""One registered transport as this host uses it: memory, registration, heartbeat, and its supervised workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from . import holdings, lives
from .backing import share
from .cbd.claim import Bakery
from .cbd.fencing import fence
from .cbd.hosting import LOST_GUIDE, LOST_HINT, Registration, Seat, boot_id, register
from .cbd.layout import BackendEntry, BlkdevEntry, Info
from .cbd.lines import Heartbeat
from .cbd.liveness import Liveness, claim_patience_s, period_s, watch
from .cbd.registry import Registry
from .cbd.transport import attach
from .errors import Code, DatapathError
from .file_id import why_not_at
from .forgotten import forgotten, why_forgotten
from .frontends.names import ublk_number
from .lives import Start
from .locks.base import Both, HostLock
from .locks.etcd import EtcdLock
from .mapping import Mapping
from .memory import Extents, Memory, resolve
from .places import same_as
from .state import BackendState, BlkdevState, TransportState
from .supervisor import Supervised
from .waits import Sleep, Waits, in_thread
from .workers.lock import lock_file, remove_lock_file

LOOK_S = 1.0  # between two looks for the file of a memory
_MOVED_HINT = "stop everything that is in it, then put the file back or begin anew: " + LOST_GUIDE

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    runtime: Path
    state: Path
    host_name: str
    sysfs: Path = Path("/sys")
    dev: Path = Path("/dev")
    lun_patience: float = 120.0  # seconds that programs wait for a LUN whose medium is away, as requests to a blkdev do
    etcd: str = ""  # URL of an etcd whose lock is taken beside the transport's own claim; empty: none
    extents: Extents | None = None  # dynamic capacity of this host


@dataclass
class Opened:
    """What exists while the transport is reachable and this host is registered in it."""

    memory: Memory
    mapping: Mapping
    info: Info
    registry: Registry
    registration: Registration
    liveness: Liveness
    claim: Bakery
    lock: HostLock  # the claim, or the claim and more
    waits: Waits
    shared: int  # descriptor that keeps everybody off the memory who wants to have it for something else
    file: os.stat_result  # of that

    @property
    def host_id(self) -> int:
        return self.registration.id

    @property
    def host_epoch(self) -> int:
        return self.registration.entry.epoch

    @property
    def lease_s(self) -> float:
        return self.info.lease_s

    def close(self) -> None:
        self.mapping.close()
        os.close(self.shared)

    def alive(self, host_id: int, epoch: int | None = None) -> bool | None:
        return True if host_id == self.host_id else self.liveness.alive(host_id, epoch)


class Session:
    """A wanted transport. `opened` is None while it is pending; `reason` says why, and ends the heartbeats of an open one."""

    def __init__(self, desired: TransportState, settings: Settings, waits: Waits | None = None) -> None:
        self.desired = desired
        self.settings = settings
        self.waits = waits or Waits()
        self.opened: Opened | None = None
        self.reason: DatapathError | None = None
        self.moved: DatapathError | None = None  # what is wrong with the file of a memory that is open
        self._next_look = 0.0
        self._looking: asyncio.Task[None] | None = None
        # One supervised worker per entry of the desired state, started or not.
        self.backends = {want.id: self.backend_worker(want) for want in desired.backends}
        self.blkdevs = {want.id: self.blkdev_worker(want) for want in desired.blkdevs}
        self.changing = asyncio.Lock()  # held by each change of what this host has in the transport
        self._opening = asyncio.Lock()
        self._claiming = asyncio.Lock()
        self.leaving = False  # about to be unregistered: it is not to be there after a restart
        self._unsaved: list[BackendState | BlkdevState] = []
        self._failing: dict[str, Supervised] = {}  # by name: who fails the requests of a device that this host lost

    @property
    def name(self) -> str:
        return self.desired.name

    @property
    def memory_path(self) -> str:
        """As the user named it while it is pending."""
        return self.opened.memory.path if self.opened else self.desired.memory

    async def has(self, memory: Memory) -> bool:
        """Whether the transport is in this memory, whatever either is called; while it is pending its name tells."""
        if self.opened is not None:
            return self.opened.memory.is_same(memory)
        named = self.desired.memory
        return named == memory.spec or (memory.kind == "file" and bool(await same_as(memory.path, [named])))

    def need(self) -> Opened:
        """Raises `not_ready` with the reason while the transport is pending."""
        if self.opened is None:
            raise self.away()
        return self.opened

    def away(self) -> DatapathError:
        """Why nothing can be done in a transport that is pending, and the next step."""
        if self.reason is not None and self.reason.hint == LOST_HINT:
            why = f"is not there any more ({self.reason.object}: {self.reason.message})"
            hint = (
                f"stop what this host has in it, run: cxl-datapath cbd transport unregister {self.name}, then register it again"
            )
        else:
            why = f"is not reachable yet ({self.reason})" if self.reason else "is being opened"
            hint = "the daemon keeps trying; see: cxl-datapath status"
        return DatapathError(Code.NOT_READY, f"transport {self.name}", why, hint)

    def why(self) -> DatapathError | None:
        """Why it is pending, or what is wrong with it all the same; None while nothing is."""
        return self.reason or (self.away() if self.opened is None else self.moved)

    def settled(self) -> TransportState:
        """What is to be there after a restart of the daemon."""
        backends = [want for want in self.desired.backends if want not in self._unsaved]
        blkdevs = [want for want in self.desired.blkdevs if want not in self._unsaved]
        return replace(self.desired, backends=backends, blkdevs=blkdevs)

    @contextlib.contextmanager
    def unsaved(self, want: BackendState | BlkdevState) -> Iterator[None]:
        """Its start may fail yet, and the state be written meanwhile by a change of another transport."""
        self._unsaved.append(want)
        try:
            yield
        finally:
            self._unsaved.remove(want)

    async def open(self) -> None:
        """Maps, attaches, registers this host, if that is still to do; the caller saves. Takes up to a lease when an earlier
        incarnation must be seen dead."""
        async with self._opening:
            if self.opened is None:
                await self._open()

    async def _open(self) -> None:
        try:
            opened = await in_thread(partial(_open, self.desired, self.settings, self.waits), Opened.close)
        except DatapathError as error:
            self.reason = error
            raise
        self.opened, self.reason, self.moved = opened, None, None
        self.desired.seat = Seat(opened.host_id, opened.host_epoch)
        lives.adopt(opened, self.desired.backends)
        self._tidy(opened)
        for entry in self.forgotten().values():
            log.warning("%s", why_forgotten(opened, entry))
        self.fail_lost_devices()
        self.tick()
        log.info("transport %s: registered as host %d", self.name, opened.host_id)

    def _tidy(self, opened: Opened) -> None:
        wanted = ({want.id for want in each} for each in (self.desired.backends, self.desired.blkdevs))
        if cleared := holdings.tidy(opened, *wanted):
            what = "left by an earlier life of this host and not in its state file"
            log.warning("transport %s: cleared %s: %s", self.name, ", ".join(cleared), what)

    def forgotten(self) -> dict[int, BackendEntry]:
        """This host's own backends in the transport that it does not know any more, by their numbers."""
        return forgotten(self.opened, self.desired.backends, self.backends) if self.opened else {}

    @property
    def beats(self) -> bool:
        """Whether this host is in the transport, and not about to leave it because it lost its place there."""
        return self.opened is not None and self.reason is None

    @property
    def period_s(self) -> float:
        """Seconds between two beats."""
        return period_s(self.need().lease_s)

    def tick(self) -> None:
        """One heartbeat, and one look at those of the others. Raises when this host lost its entry or was fenced."""
        opened = self.need()
        opened.registration.beat()
        opened.claim.repair()
        for host_id in range(opened.registry.hosts.count):
            epoch = opened.registry.incarnation(host_id)
            if epoch is not None:
                opened.liveness.observe(host_id, opened.registry.heartbeat(host_id), epoch)

    def look(self) -> None:
        """Says of a memory whose file was removed or replaced that whoever starts again finds another one; what runs goes on."""
        opened, now = self.opened, time.monotonic()
        if opened is None or opened.memory.kind != "file" or now < self._next_look:
            return
        if self._looking is not None and not self._looking.done():
            return
        self._next_look = now + LOOK_S
        self._looking = asyncio.create_task(self._look(opened), name=f"look for the memory of {self.name}")

    async def _look(self, opened: Opened) -> None:
        """As long as its file system hangs nobody knows, and there is no second look."""
        what, before = await in_thread(lambda _: why_not_at(opened.memory.spec, opened.file)), self.moved
        if opened is not self.opened:
            return
        self.moved = DatapathError(Code.NOT_FOUND, opened.memory.spec, what, _MOVED_HINT) if what else None
        if self.moved is not None and str(self.moved) != str(before):
            log.warning("transport %s: %s", self.name, self.moved)

    async def known_alive(self, host_id: int, epoch: int | None = None) -> bool:
        """Waits until the host was watched long enough; with `epoch` until this incarnation was, and another one is alive."""
        opened = self.need()
        period = self.period_s
        name = opened.registry.host_name(host_id)
        with self.waits.on(f"a sign of life of host {name}, or {opened.lease_s:g} s without one"):
            for _ in range(int(opened.lease_s / period) * 4):
                if (verdict := opened.alive(host_id, epoch)) is not None:
                    return verdict
                await asyncio.sleep(period / 2)
        return epoch is not None

    @contextlib.asynccontextmanager
    async def claim(self) -> AsyncIterator[Opened]:
        """Nobody else allocates, clears or takes over in this transport meanwhile. Raises `busy` with the holder's name."""
        # One at a time: waiting threads would take up all that there are, and leave none to give the claim back.
        async with self._claiming:
            opened = self.need()
            with self.waits.on(f"the claim of transport {self.name}, which another host holds"):
                await _acquire(opened)
            try:
                yield opened
            finally:
                with contextlib.suppress(DatapathError):  # the transport was lost meanwhile, and the claim with it
                    await asyncio.to_thread(opened.lock.release)

    async def close(self, error: DatapathError | None = None, patience: float = 0.0) -> None:
        """Stops all workers (blkdevs first) and unmaps. The entries stay: they keep ids and backends for this host."""
        self.reason = error
        failing, self._failing = self._failing, {}
        for group in ([*self.blkdevs.values(), *failing.values()], list(self.backends.values())):
            await asyncio.gather(*(worker.end(patience) for worker in group))
        if self._looking is not None:
            self._looking.cancel()
        opened, self.opened = self.opened, None
        if opened is not None:
            opened.close()

    def keep_workers(self) -> None:
        """Starts everything that is wanted, in the background."""
        for worker in (*self.backends.values(), *self.blkdevs.values()):
            worker.keep()

    def backend_worker(self, want: BackendState, start: Start = Start.AGAIN) -> Supervised:
        """`start`: its first one; with another than `AGAIN` the caller holds the claim until the worker is ready."""
        starts = [start]

        async def configure() -> dict[str, Any]:
            now = starts.pop() if starts else Start.AGAIN
            if now is Start.AGAIN:
                await self._renew(want)
            return self._reference() | asdict(want) | {"start": now}

        return Supervised("backend", f"transport {self.name} backend {want.id}", configure, self.ring)

    async def _renew(self, want: BackendState) -> None:
        """After a registration the entry is that of an earlier incarnation, and somebody may be about to take it over."""
        opened = self.need()
        if lives.own_entry(opened, want).host_epoch != opened.host_epoch:
            async with self.claim() as opened:
                lives.renew(opened, want)

    def blkdev_worker(self, want: BlkdevState, reserved: BlkdevEntry | None = None) -> Supervised:
        """`reserved`: the channels of its first start; later ones are reserved when they are needed."""
        first = [reserved] if reserved else []

        async def reserve() -> dict[str, Any]:
            async with self.claim() as opened:
                return {"epoch": holdings.reserve(opened, want, first=False).epoch}

        async def configure() -> dict[str, Any]:
            fresh = {"epoch": first.pop().epoch, "resume": False} if first else await reserve() | {"resume": True}
            return self._reference() | asdict(want) | fresh | {"dev": str(self.settings.dev)}

        return Supervised("blkdev", f"transport {self.name} blkdev {want.id}", configure, self.ring, reserve)

    def remove_lock(self, kind: str, number: int) -> None:
        """After the worker of a backend or blkdev ended for good."""
        remove_lock_file(lock_file(self.settings.runtime, kind, self.desired.uuid, number))

    def ring(self) -> None:
        if self.opened is not None:
            self.opened.registration.ring()

    def _reference(self) -> dict[str, Any]:
        opened = self.need()
        memory = opened.memory
        reference = asdict(memory)
        host = {"host_id": opened.host_id, "host_epoch": opened.host_epoch}
        return {"transport": reference | host | {"uuid": self.desired.uuid, "runtime": str(self.settings.runtime)}}

    def fail_lost_devices(self) -> None:
        """Who waits for a device that was lost while this host was dead gets errors, not an endless wait."""
        opened = self.need()
        for want in self.desired.blkdevs:
            number = ublk_number(self.settings.dev / want.name)
            if number is not None and want.name not in self._failing and holdings.is_lost(opened, want):
                self._failing[want.name] = self.remover(want.name, number, patient=True)
                self._failing[want.name].keep()

    async def fail_device(self, name: str, number: int) -> None:
        """Returns when every request of a kept ublk device fails; it goes once nobody uses it."""
        await self.end_failing(name)
        remover = self._failing[name] = self.remover(name, number, patient=True)
        try:
            await remover.start()
        except DatapathError:
            await self.end_failing(name)
            raise

    async def end_failing(self, name: str) -> None:
        remover = self._failing.pop(name, None)
        if remover is not None:
            await remover.end(patience=5.0)

    def remover(self, name: str, number: int, patient: bool) -> Supervised:
        """A worker that removes a kept ublk device; a patient one fails its requests at once and waits for its users to go."""

        async def configure() -> dict[str, Any]:
            return {"device": number, "name": name, "dev": str(self.settings.dev), "patient": patient}

        return Supervised("remove", f"device {name} (ublkb{number})", configure, lambda: None)


def _open(desired: TransportState, settings: Settings, waits: Waits, sleep: Sleep) -> Opened:
    memory = resolve(desired.memory, settings.sysfs, settings.dev, settings.extents)
    with contextlib.ExitStack() as undo:
        shared = share(memory)
        undo.callback(os.close, shared)
        mapping = Mapping(memory)
        undo.callback(mapping.close)
        info = _attach_again(mapping, memory.spec)
        if str(info.uuid) != desired.uuid:
            what = f"was formatted again: it holds transport {info.name} with uuid {info.uuid}, registered was {desired.uuid}"
            raise DatapathError(Code.CORRUPT, memory.spec, what, LOST_HINT)
        mapping.use_coherence(info.coherence)
        registry = Registry(mapping, info)

        def watch_own(read: Callable[[int], Heartbeat | None], hosts: list[int], lease_s: float) -> set[int]:
            who = f"an earlier life of host {settings.host_name} in transport {info.name}"
            with waits.on(f"{who} to be silent for {lease_s:g} s"):
                return watch(read, hosts, lease_s, sleep=sleep)

        registration = register(registry, settings.host_name, boot_id(), sleep=sleep, watch_hosts=watch_own, seat=desired.seat)
        liveness = Liveness(info.lease_s)
        claim = Bakery(registry, registration.id, registration.entry.epoch, liveness.alive, partial(fence, registry))
        lock = _lock(claim, info, settings.etcd)
        opened = Opened(memory, mapping, info, registry, registration, liveness, claim, lock, waits, shared, os.fstat(shared))
        undo.pop_all()
    return opened


async def _acquire(opened: Opened) -> None:
    """A claim that comes after the caller was cancelled is released at once."""
    lock, patience = opened.lock, claim_patience_s(opened.lease_s)

    def release(_: None) -> None:
        with contextlib.suppress(DatapathError):
            lock.release()

    await in_thread(lambda _: lock.acquire(patience), release)


def _attach_again(mapping: Mapping, spec: str) -> Info:
    """This host was registered there once: what cannot be found or read now was lost."""
    try:
        return attach(mapping, spec)
    except DatapathError as error:
        if error.code not in (Code.NOT_FOUND, Code.CORRUPT):
            raise
        raise DatapathError(error.code, error.object, f"{error.message}: the transport was lost", LOST_HINT) from None


def _lock(claim: Bakery, info: Info, etcd: str) -> HostLock:
    """The transport's own claim; with an etcd, its lock first."""
    return Both(EtcdLock(etcd, f"/cxl-lab/{info.uuid}", 2 * info.lease_s), claim) if etcd else claim
