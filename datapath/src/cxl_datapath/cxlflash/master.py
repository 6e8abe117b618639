# SPDX-License-Identifier: GPL-3.0-or-later
"""The LUNs of this host and every context on them: tokens, limits, and cleaning up after applications."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
import secrets
from pathlib import Path

from ..errors import Code, DatapathError
from ..saver import Saver
from .areas import Areas
from .desired import LunFile, LunState
from .lun import Context, Lun
from .process import Process
from .records import Record, Records
from .refusal import Refusal, invalid
from .watch import Watch
from .wire import CONTEXTS_MAX

STOP_PATIENCE_S = 10.0
USER_CONTEXTS = CONTEXTS_MAX // 2  # of one user on this host, so that others find room

log = logging.getLogger(__name__)


class Luns:
    """`luns` by WWID. Services hold the lock of their LUN; methods that add or remove LUNs hold the daemon's."""

    def __init__(self, runtime: Path, state: Path, patience: float) -> None:
        self.runtime = runtime
        self.patience = patience  # seconds
        self.luns: dict[str, Lun] = {}
        self.contexts: dict[int, Context] = {}  # by token
        self._bells: dict[int, Context] = {}  # by the descriptor of our end
        self.records = Records(runtime)
        self._file = LunFile(state)
        self._saver = Saver(self._file, lambda: [lun.state for lun in self.luns.values()])
        self._watch: Watch | None = None
        self._cleaning: set[asyncio.Task[None]] = set()

    # ---- LUNs ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Reads the desired LUNs and starts their workers in the background."""
        self._watch = Watch(self._on_bell, self._on_exit)
        for state in self._file.load():
            self.luns[state.wwid] = self.make(state)
        for record in self.records.load():
            self._adopt(record)
        for lun in self.luns.values():
            if lun.state.mode == "superpipe":
                lun.worker.keep()

    def make(self, state: LunState) -> Lun:
        return Lun(state, self.runtime, self.records, self.patience)

    def _adopt(self, record: Record) -> None:
        """Of an earlier daemon: its process recovers it, or it ends with that."""
        try:
            lun = self.luns.get(record.wwid)
            if lun is None or lun.state.mode == "legacy":
                raise invalid("its LUN is not there any more")
            self._need_watch().process(record.owner)
            try:
                self.contexts[record.token] = lun.adopt(record)
            except Refusal:
                self._need_watch().forget_process(record.owner)
                raise
        except Refusal as refusal:
            log.info("context of process %d: %s", record.owner.pid, refusal)
            self.records.forget(record.token)

    async def stop(self) -> None:
        if self._cleaning:  # an engine whose medium hangs answers nobody: it is ended below
            await asyncio.wait(self._cleaning, timeout=STOP_PATIENCE_S)
        await asyncio.gather(*(lun.close(STOP_PATIENCE_S) for lun in self.luns.values()))
        for context in self.contexts.values():
            context.areas.close()
        if self._watch is not None:
            self._watch.close()

    async def save(self) -> None:
        await self._saver.save()

    def find(self, text: str) -> Lun | None:
        """By WWID or name."""
        return self.luns.get(text) or next((lun for lun in self.luns.values() if lun.state.name == text), None)

    def need(self, text: str) -> Lun:
        lun = self.find(text)
        if lun is None:
            known = ", ".join(sorted(each.state.name for each in self.luns.values())) or "none"
            hint = "create it: cxl-datapath lun create"
            raise DatapathError(Code.NOT_FOUND, f"LUN {text}", f"is not on this host (there are: {known})", hint)
        return lun

    async def set_mode(self, lun: Lun, mode: str) -> None:
        """Between superpipe and legacy; a change is refused while contexts are open. Its lock is held."""
        if mode == lun.state.mode:
            return
        refuse_used(lun)
        before, lun.state.mode = lun.state.mode, mode
        try:
            if mode == "superpipe":
                await lun.open()
            await self.save()
        except BaseException:
            lun.state.mode = before
            if mode == "superpipe":
                await lun.close(STOP_PATIENCE_S)
            raise
        if mode == "legacy":
            await lun.close(STOP_PATIENCE_S)

    # ---- contexts ------------------------------------------------------------------------------------------------------

    def mine(self, token: int, sender: Process) -> Context:
        """The sender's context. A token in other hands is as good as none."""
        context = self.contexts.get(token)
        if context is None or not context.owner.is_same(sender):
            raise invalid("there is no such context of this process")
        return context

    async def attach(self, lun: Lun, sender: Process, *, depth: int, read_only: bool) -> Context:
        if self.luns.get(lun.state.wwid) is not lun:
            raise Refusal(errno.ENODEV, f"LUN {lun.state.name} was removed")
        check_access(lun, sender)
        if sum(1 for each in lun.contexts if each.owner.is_same(sender)) >= lun.state.client_contexts:
            raise Refusal(errno.ENOSPC, f"a process may have {lun.state.client_contexts} contexts on LUN {lun.state.name}")
        self._refuse_greed(sender)
        taken = {context.slot for context in self.contexts.values()}
        slot = next((number for number in range(CONTEXTS_MAX) if number not in taken), None)
        if slot is None:
            raise Refusal(errno.ENOSPC, f"all {CONTEXTS_MAX} contexts of this host are in use")
        token = secrets.randbits(63) + 1
        self._need_watch().process(sender)
        try:
            context = await self._reserve(lun, Context(slot, token, sender, lun, depth, read_only, Areas.nothing()))
        except BaseException:
            self._need_watch().forget_process(sender)
            raise
        self._listen(context)
        return context

    def _refuse_greed(self, sender: Process) -> None:
        """Limits for a process are none for a user who may start as many as he likes. Root and the daemon's user may have all."""
        held = sum(1 for context in self.contexts.values() if context.owner.uid == sender.uid)
        if held >= USER_CONTEXTS and sender.uid not in (0, os.geteuid()):
            raise Refusal(errno.ENOSPC, f"a user may have {USER_CONTEXTS} contexts of this host, in all processes together")

    async def _reserve(self, lun: Lun, planned: Context) -> Context:
        # Other LUNs have other locks: the slot is taken from here on, whoever asks while the worker is at it.
        self.contexts[planned.token] = planned
        try:
            return await lun.attach(planned)
        except BaseException:
            del self.contexts[planned.token]
            raise

    async def recover(self, context: Context) -> None:
        try:
            old = await context.lun.recover(context)
        except Refusal as refusal:
            raise Refusal(errno.EIO, str(refusal)) from None
        self._unlisten(old)
        old.close()
        self._listen(context)

    async def detach(self, context: Context, scrub: bool) -> None:
        del self.contexts[context.token]
        self._unlisten(context.areas)
        self._need_watch().forget_process(context.owner)
        await context.lun.detach(context, scrub)

    def _listen(self, context: Context) -> None:
        self._bells[context.areas.engine_bell] = context
        self._need_watch().bell(context.areas.engine_bell)

    def _unlisten(self, areas: Areas) -> None:
        if self._bells.pop(areas.engine_bell, None) is not None:
            self._need_watch().forget_bell(areas.engine_bell)

    def _need_watch(self) -> Watch:
        assert self._watch is not None
        return self._watch

    # ---- applications that go away -------------------------------------------------------------------------------------

    def _on_bell(self, fd: int) -> None:
        context = self._bells.get(fd)
        if context is not None:
            self._clean([context.token])

    def _on_exit(self, process: Process) -> None:
        self._clean([token for token, context in self.contexts.items() if context.owner.is_same(process)])

    def _clean(self, tokens: list[int]) -> None:
        for token in tokens:
            task = asyncio.create_task(self._end(token, self.contexts[token].lun), name="end context")
            self._cleaning.add(task)
            task.add_done_callback(self._cleaning.discard)

    async def _end(self, token: int, lun: Lun) -> None:
        async with lun.lock:  # whoever was making the context is through with it
            if token in self.contexts:
                await self.detach(self.contexts[token], scrub=False)


def check_access(lun: Lun, sender: Process) -> None:
    """Root and the daemon's user always may. Raises `Refusal` (EACCES)."""
    if not lun.state.users or sender.uid in (0, os.geteuid()):
        return
    try:
        name = pwd.getpwuid(sender.uid).pw_name
    except KeyError:
        name = ""
    if not {name, str(sender.uid)} & set(lun.state.users):
        raise Refusal(errno.EACCES, f"user {name or sender.uid} is not in the access list of LUN {lun.state.name}")


def refuse_used(lun: Lun) -> None:
    if lun.contexts:
        pids = ", ".join(sorted({str(context.owner.pid) for context in lun.contexts})[:8])
        what = f"has {len(lun.contexts)} context(s) of process(es) {pids}"
        raise DatapathError(Code.BUSY, f"LUN {lun.state.name}", what, "end them first")
