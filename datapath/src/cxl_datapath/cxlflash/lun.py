# SPDX-License-Identifier: GPL-3.0-or-later
"""One LUN of this host: its worker, its space, and the contexts on it. Who may ask for what is decided elsewhere.

Methods that change something are called with `lock` held.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import DatapathError
from ..medium_id import MediumId, medium_from_json
from ..supervisor import Phase, Supervised
from . import wire
from .areas import Areas, make_areas
from .channel import Channel
from .chunks import CHUNKS_MAX, Chunks, Resize, Span, joined
from .desired import LunState
from .process import Process
from .records import Record, Records
from .refusal import Gone, Refusal, invalid

_STEP_S = 0.02
_HURRY_S = 1.0  # between two starts of a worker that is waited for
_SPANS = 1024  # of one order: half of a packet at most

log = logging.getLogger(__name__)


@dataclass
class Handle:
    """What an application may reach. `table` is None for a direct one."""

    blocks: int
    table: tuple[int, ...] | None

    @property
    def kind(self) -> str:
        return "direct" if self.table is None else "virtual"


@dataclass
class Context:
    slot: int
    token: int
    owner: Process
    lun: Lun
    depth: int
    read_only: bool
    areas: Areas
    handles: dict[int, Handle] = field(default_factory=dict)
    state: str = "active"  # or "error" until it is recovered, "dead" when it cannot be, "ended" while it is cleaned up

    def handle(self, number: int) -> Handle:
        if number not in self.handles:
            raise invalid(f"handle {number} is not open in this context")
        return self.handles[number]


class Lun:
    """`patience`: seconds that services wait for the worker."""

    def __init__(self, state: LunState, runtime: Path, records: Records, patience: float) -> None:
        self.state = state
        self._patience = patience
        self._records = records
        self.lock = asyncio.Lock()
        self.contexts: list[Context] = []
        self.blocks = 0
        self.chunks: Chunks | None = None
        self._lock_file = runtime / f"lun-{state.wwid}.lock"
        self._channel: Channel | None = None
        self._measured: Channel | None = None  # of the worker whose medium was measured
        self._medium: MediumId | None = None  # that of the contexts
        self.worker = Supervised("lun", f"LUN {state.name}", self._configure, lambda: None)

    # ---- the worker ----------------------------------------------------------------------------------------------------

    async def _configure(self) -> dict[str, Any]:
        self._channel = Channel(self._on_gone)
        fd = self._channel.hand_over()
        paths = {"path": self.state.path, "lock_file": str(self._lock_file)}
        chunk = self.chunks.blocks if self.chunks else 0
        medium = asdict(self._medium) if self._medium and self.contexts else None
        known = {"read_only": self.state.read_only, "chunk_blocks": chunk, "medium": medium}
        return {"name": self.state.name, **paths, **known, "channel": fd, "inherit": [fd]}

    def _on_gone(self, channel: Channel) -> None:
        """The worker has died: its contexts read all ones until they are recovered."""
        if channel is not self._channel:
            return
        for context in self.contexts:
            if context.state == "active":
                context.state = "error"
                context.areas.fail()

    @property
    def running(self) -> bool:
        return self.worker.phase == Phase.RUNNING and self._channel is not None and not self._channel.gone

    async def open(self) -> None:
        """Starts the worker and takes the size of the medium. Raises the worker's error."""
        await self.worker.start()
        self.measure()

    def measure(self) -> None:
        """Takes the size of the medium, once for each worker that opens it: it may have become another one."""
        if not self.running or self._measured is self._channel:
            return
        self._measured, info = self._channel, self.worker.info
        self._medium = medium_from_json(info["medium"])
        if self.chunks is None:
            self.chunks = Chunks(0, info["chunk_blocks"])
        self.chunks.soil()  # nor need it hold what the other one held
        self._resized(self.chunks, info["blocks"])

    def _resized(self, chunks: Chunks, blocks: int) -> None:
        """Chunks keep their size as long as there are any; of a medium that became much larger the rest waits until then."""
        self.blocks, chunks.count = blocks, min(blocks // chunks.blocks, CHUNKS_MAX)

    async def close(self, patience: float) -> None:
        """Stops the worker; the next one may find another medium."""
        await self.worker.end(patience)
        if self._channel is not None:
            self._channel.close()
        self.chunks = None

    async def need(self, deadline: float | None = None) -> Chunks:
        """Waits for a worker that is being started. Raises EBUSY in legacy mode, EIO when it does not come."""
        if self.state.mode == "legacy":
            raise Refusal(errno.EBUSY, f"LUN {self.state.name} is in legacy mode; switch it with MANAGE_LUN")
        deadline, hurry_at = deadline or _now() + self._patience, 0.0
        while not self.running:
            if _now() > deadline:
                raise Refusal(errno.EIO, f"the data path of LUN {self.state.name} does not start: {self.worker.error}")
            if self.worker.phase == Phase.WAITING and _now() >= hurry_at:
                hurry_at = _now() + _HURRY_S
                with contextlib.suppress(DatapathError):
                    await self.worker.start()
            await asyncio.sleep(_STEP_S)
        self.measure()
        assert self.chunks is not None
        return self.chunks

    async def call(self, op: str, descriptors: tuple[int, ...] = (), **fields: Any) -> dict[str, Any]:
        if self._channel is None:
            raise Gone("the data path of the LUN is not running")
        return await self._channel.call(op, descriptors, **fields)

    # ---- contexts ------------------------------------------------------------------------------------------------------

    async def attach(self, context: Context) -> Context:
        """Gives a planned context its areas, and makes it one of ours."""
        await self._connect(context)
        self.contexts.append(context)
        self._record(context)
        return context

    def adopt(self, record: Record) -> Context:
        """A context of an earlier daemon, in error until it is recovered. Raises `Refusal` when it contradicts what is known."""
        if self.chunks is None:
            self.blocks, self.chunks = record.lun_blocks, Chunks(record.lun_blocks // record.chunk_blocks, record.chunk_blocks)
        if self.chunks.blocks != record.chunk_blocks:
            raise invalid(f"its LUN has chunks of {self.chunks.blocks} blocks, not {record.chunk_blocks}")
        handles = {number: Handle(blocks, table) for number, (blocks, table) in record.handles.items()}
        if any(chunk >= self.chunks.count for handle in handles.values() for chunk in handle.table or ()):
            raise invalid(f"its LUN has {self.chunks.count} chunks, fewer than it needs")
        fields = (record.slot, record.token, record.owner, self, record.depth, record.read_only)
        context = Context(*fields, Areas.nothing(), handles, state="error")
        for handle in handles.values():
            self.chunks.share(handle.table or ())
        self.contexts.append(context)
        self._medium = record.medium
        return context

    def _record(self, context: Context) -> None:
        """For the next daemon. Comes before chunks are given back: it must never hold what somebody else has by then."""
        if self.chunks is None or context.state == "ended":
            return
        handles = {number: (handle.blocks, handle.table) for number, handle in context.handles.items()}
        who = (context.token, context.slot, context.owner)
        record = Record(
            self.state.wwid,
            self.blocks,
            self.chunks.blocks,
            *who,
            depth=context.depth,
            read_only=context.read_only,
            handles=handles,
            medium=self._medium,
        )
        self._records.save(record)

    async def recover(self, context: Context) -> Areas:
        """New areas, the handles as they were; returns the old areas, to be closed. After a failure the context is dead."""
        before = context.areas
        try:
            await self._connect(context)
        except BaseException:
            context.areas, context.state = before, "dead"
            raise
        context.state = "active"
        return before

    async def _connect(self, context: Context) -> None:
        """Gives the context new areas and has a worker serve it; when that worker dies meanwhile, the next one."""
        deadline = _now() + self._patience
        while True:
            await self.need(deadline)
            channel, context.areas = self._channel, make_areas(context.depth)
            try:
                await self._serve(context)
                if channel is self._channel and self.running:  # its end can be known before its last answer is
                    return
                raise Gone("the data path of the LUN has ended")
            except BaseException as error:
                context.areas.close()
                if not isinstance(error, Gone) or _now() > deadline:
                    raise
                await asyncio.sleep(_STEP_S)

    async def _serve(self, context: Context) -> None:
        areas = context.areas
        fields = {"slot": context.slot, "depth": context.depth, "read_only": context.read_only or self.state.read_only}
        await self.call("add", (areas.user, areas.master, areas.engine_bell), **fields)
        try:
            for number, handle in context.handles.items():
                if handle.table is None:
                    handle.blocks = self.blocks
                await self._tell(context, number, handle.blocks, handle.table)
        except Refusal:
            with contextlib.suppress(Refusal):  # or nobody else could have its slot
                await self.call("remove", slot=context.slot)
            raise

    async def detach(self, context: Context, scrub: bool) -> None:
        """Ends the context and every handle in it, whatever the worker says."""
        context.state, was = "ended", context.state
        self._records.forget(context.token)
        try:
            if was == "active":
                await self.call("remove", slot=context.slot)
        except Refusal as refusal:
            log.warning("LUN %s: context %d: %s", self.state.name, context.slot, refusal)
        for number in list(context.handles):
            await self.release(context, number, scrub)
        self.contexts.remove(context)
        context.areas.close()

    # ---- handles -------------------------------------------------------------------------------------------------------

    async def open_direct(self, context: Context) -> int:
        chunks = await self.need()
        number = self._free_handle(context, "direct")
        await self._tell(context, number, self.blocks, None)
        chunks.soil()
        context.handles[number] = Handle(self.blocks, None)
        self._record(context)
        return number

    async def open_virtual(self, context: Context, blocks: int) -> int:
        await self.need()
        if self.state.read_only:
            raise Refusal(errno.EROFS, f"LUN {self.state.name} is read-only, and a virtual LUN is zeroed first: use it directly")
        number = self._free_handle(context, "virtual")
        handle = Handle(0, ())
        await self._change(context, number, handle, blocks, scrub=False)
        return number

    async def resize(self, context: Context, number: int, blocks: int, scrub: bool) -> None:
        handle = context.handle(number)
        if handle.table is None:
            raise invalid("a direct handle has the size of its LUN")
        await self._change(context, number, handle, blocks, scrub)

    async def release(self, context: Context, number: int, scrub: bool) -> None:
        """Gives a handle back. What the worker cannot do any more it need not: it is gone, and so are its handles."""
        handle = context.handle(number)
        plan = None
        if handle.table is not None and self.chunks is not None:
            plan = self.chunks.resize(handle.blocks, handle.table, 0, scrub)
        try:
            if context.state == "active":
                await self.call("clear", slot=context.slot, handle=number)
            await self._zero(plan.scrub if plan else ())
        except Refusal as refusal:
            log.warning("LUN %s: handle %d of context %d: %s", self.state.name, number, context.slot, refusal)
            plan = Resize(0, (), (), ()) if plan else None
        del context.handles[number]
        self._record(context)
        if plan and self.chunks is not None:
            self.chunks.settle(handle.table or (), plan)

    async def clone(self, source: Context, target: Context) -> None:
        """The virtual LUNs of `source`, under the same numbers, in `target`, which has none."""
        chunks = await self.need()
        for number, handle in source.handles.items():
            assert handle.table is not None
            await self._tell(target, number, handle.blocks, handle.table)
            chunks.share(handle.table)
            target.handles[number] = Handle(handle.blocks, handle.table)
        self._record(target)

    async def rescan(self) -> bool:
        """Measures the medium again; whether it has another size. Direct handles follow, chunks keep their size."""
        chunks = await self.need()
        blocks = int((await self.call("rescan"))["blocks"])
        if blocks == self.blocks:
            return False
        self._resized(chunks, blocks)
        for context in self.contexts:
            for number, handle in context.handles.items():
                if handle.table is None and context.state == "active":
                    await self._tell(context, number, blocks, None)
                    handle.blocks = blocks
            self._record(context)
        return True

    def _free_handle(self, context: Context, kind: str) -> int:
        for other in self.contexts:
            if any(handle.kind != kind for handle in other.handles.values()):
                raise Refusal(errno.EBUSY, f"LUN {self.state.name} is in use in the other mode; that is released first")
        free = [number for number in range(wire.HANDLES_MAX) if number not in context.handles]
        if not free:
            raise Refusal(errno.ENOSPC, f"a context has at most {wire.HANDLES_MAX} handles")
        return free[0]

    async def _change(self, context: Context, number: int, handle: Handle, blocks: int, scrub: bool) -> None:
        chunks = await self.need()
        before = handle.table or ()
        plan = chunks.resize(handle.blocks, before, blocks, scrub)
        try:
            await self._zero(plan.zero)
            await self._tell(context, number, plan.blocks, plan.table)
        except BaseException:
            chunks.undo(before, plan)
            raise
        handle.blocks, handle.table = plan.blocks, plan.table
        context.handles[number] = handle
        self._record(context)
        try:
            await self._zero(plan.scrub)
        except BaseException:  # they are out of everybody's reach, but nobody knows what is in them
            chunks.settle(before, replace(plan, scrub=()))
            raise
        chunks.settle(before, plan)

    async def _tell(self, context: Context, number: int, blocks: int, table: tuple[int, ...] | None) -> None:
        await self.call("set", slot=context.slot, handle=number, blocks=blocks, table=table)

    async def _zero(self, spans: tuple[Span, ...]) -> None:
        """As many at a time as an order has room for: those of a whole LUN are thousands when it is in pieces."""
        pairs = [(span.start, span.count) for span in joined(spans)]
        for first in range(0, len(pairs), _SPANS):
            await self.call("zero", spans=pairs[first : first + _SPANS])


def _now() -> float:
    return asyncio.get_running_loop().time()
