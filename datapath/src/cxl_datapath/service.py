# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's heart: all sessions, their heartbeats, the desired state, and its rebuilding after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import TypeVar

from .cxlflash.master import Luns
from .dcd.manager import DcdManager
from .errors import Code, DatapathError, about
from .memory import Memory, resolve
from .pool_session import PoolSession
from .pool_state import PoolFile
from .saver import Saver
from .session import Session, Settings
from .state import BackendState, BlkdevState, StateFile
from .supervisor import READY_S
from .waits import Waits, in_time

RETRY_FIRST_S, RETRY_MAX_S = 1.0, 10.0
IDLE_PERIOD_S = 0.5  # between two looks for transports to beat in
STOP_PATIENCE_S = 20.0  # at the end of the daemon; above the grace of the blkdev worker

Entry = TypeVar("Entry", BackendState, BlkdevState)

log = logging.getLogger(__name__)


class Datapath:
    """Everything that one daemon serves. Mutating methods hold a lock, see `changing`."""

    def __init__(self, settings: Settings) -> None:
        self.dcd = DcdManager(settings.state, settings.sysfs, settings.dev)
        self.settings = replace(settings, extents=self.dcd.memory)
        self._changing = asyncio.Lock()
        self.waits = Waits()
        self.sessions: dict[str, Session] = {}
        self.pools: dict[str, PoolSession] = {}
        self.luns = Luns(settings.runtime, settings.state, settings.lun_patience)
        self._file = StateFile(settings.state)
        self._saver = Saver(self._file, lambda: [each.settled() for each in self.sessions.values() if not each.leaving])
        self._pool_file = PoolFile(settings.state)
        self._pool_saver = Saver(self._pool_file, lambda: [pool.desired for pool in self.pools.values()])
        self._restoring: dict[str, asyncio.Task[None]] = {}
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Reads the desired state and begins to rebuild it in the background. Raises when the state file is damaged."""
        for desired in self._file.load():
            self.sessions[desired.name] = Session(desired, self.settings, self.waits)
        self.dcd.start()
        self.pools = {pool.name: PoolSession(pool, self.settings, self.memory) for pool in self._pool_file.load()}
        for pool in self.pools.values():
            pool.keep_workers()
        self._beating = asyncio.create_task(self._beat(), name="heartbeat")
        for session in self.sessions.values():
            self._restore_later(session)
        self.luns.start()

    def session(self, name: str) -> Session:
        if name not in self.sessions:
            known = ", ".join(sorted(self.sessions)) or "none"
            raise DatapathError(
                Code.NOT_FOUND,
                f"transport {name}",
                f"is not registered on this host (registered: {known})",
                "register it: cxl-datapath cbd transport register MEMORY",
            )
        return self.sessions[name]

    @contextlib.asynccontextmanager
    async def changing(self, transport: str | None) -> AsyncIterator[None]:
        """One change at a time: of a transport of this host, else of everything that is in none. Each may last for leases."""
        while True:
            session = self.sessions.get(transport or "")
            async with session.changing if session else self._changing:
                if session is self.sessions.get(transport or ""):
                    yield
                    return

    async def memory(self, spec: str) -> Memory:
        """What `spec` names on this host; see `resolve`. A mapping of dynamic capacity is `not_ready` while its device is."""
        settings = self.settings
        return await in_time(partial(resolve, spec, settings.sysfs, settings.dev, settings.extents), spec, READY_S)

    async def save(self) -> None:
        await self._saver.save()

    async def save_pools(self) -> None:
        await self._pool_saver.save()

    async def save_without(self, entries: list[Entry], entry: Entry) -> None:
        """Saves with `entry` taken out of `entries`. When that fails it stays wanted, and the caller lets it go on."""
        place = entries.index(entry)
        del entries[place]
        try:
            await self.save()
        except BaseException:
            entries.insert(place, entry)
            raise

    async def forget(self, session: Session) -> None:
        """Drops a session: no more retries, memory unmapped. The caller saves."""
        if self.sessions.get(session.name) is session:
            del self.sessions[session.name]
        task = self._restoring.pop(session.name, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await session.close()

    async def stop(self) -> None:
        """Stops workers and heartbeats. Entries, regions and desired state stay, for the next start."""
        await asyncio.to_thread(self.dcd.stop)
        await self.luns.stop()
        tasks = [*self._restoring.values(), *([self._beating] if self._beating else [])]
        # Peers must see this host alive as long as its handlers run: the heartbeat ends last.
        for task in self._restoring.values():
            task.cancel()
        await asyncio.gather(*(session.close(patience=STOP_PATIENCE_S) for session in self.sessions.values()))
        # Backends may serve what is in a pool.
        await asyncio.gather(*(pool.close(patience=STOP_PATIENCE_S) for pool in self.pools.values()))
        if self._beating:
            self._beating.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _restore_later(self, session: Session, lost: DatapathError | None = None) -> None:
        self._restoring[session.name] = asyncio.create_task(self._restore(session, lost), name=f"restore {session.name}")

    async def _restore(self, session: Session, lost: DatapathError | None) -> None:
        """`lost`: why this host has to leave the transport first."""
        if lost is not None:
            await session.close(lost)
        delay = RETRY_FIRST_S
        while True:
            try:
                async with session.changing:
                    await session.open()
                    session.keep_workers()
                    await self.save()
                return
            except DatapathError as error:
                log.warning("%s; next try in %.0f s", about(f"transport {session.name}", error), delay)
            except Exception:
                # A fault of ours must not leave the transport waiting for ever.
                log.exception("transport %s: fault while it was restored; next try in %.0f s", session.name, delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_MAX_S)

    async def _beat(self) -> None:
        while True:
            for session in list(self.sessions.values()):
                if not session.beats:
                    continue
                try:
                    session.tick()
                    session.look()
                except DatapathError as error:
                    log.error("%s; its workers are stopped", about(f"transport {session.name}", error))
                    # Not here: until its workers have ended no other transport would have a heartbeat.
                    self._restore_later(session, error)
                except Exception:
                    # Without a heartbeat every peer would take this host for dead.
                    log.exception("transport %s: fault in its heartbeat", session.name)
            await asyncio.sleep(min((each.period_s for each in self.sessions.values() if each.beats), default=IDLE_PERIOD_S))
