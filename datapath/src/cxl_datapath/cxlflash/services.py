# SPDX-License-Identifier: GPL-3.0-or-later
"""The ten services that applications ask for. Each gets a request whose version, flags and unused fields were checked."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from ..errors import DatapathError
from ..waits import in_time
from . import sense, wire
from .lun import Context, Lun
from .master import Luns
from .paths import several_paths
from .process import Process
from .refusal import Refusal, invalid, refusal_of
from .wire import Answer, Request, Service, last_lba

Run = Callable[[Luns, Request, Process], Awaitable[Answer]]


@dataclass(frozen=True)
class _Known:
    run: Run
    flags: int  # that it takes
    fields: frozenset[str]  # that it uses


async def serve(luns: Luns, packet: bytes, sender: Process) -> tuple[int, Answer]:
    """The service and its answer. Never raises but for cancellation."""
    service = 0
    try:
        if len(packet) != wire.REQUEST.size:
            raise invalid(f"a request has {wire.REQUEST.size} bytes, not {len(packet)}")
        request = Request.unpack(packet)
        service = request.service
        return service, await _check(request).run(luns, request, sender)
    except Refusal as refusal:
        return service, Answer(error=refusal.errno, text=str(refusal))
    except DatapathError as error:
        return service, Answer(error=refusal_of(error).errno, text=str(error))


def _check(request: Request) -> _Known:
    if request.version != wire.VERSION:
        raise invalid(f"version {request.version} is unknown; this is {wire.VERSION}")
    known = SERVICES.get(request.service)
    if known is None:
        raise invalid(f"service {request.service} is unknown")
    if request.flags & ~known.flags:
        raise invalid(f"flags {request.flags & ~known.flags:#x} are unknown to this service")
    used = [name for name in _FIELDS if getattr(request, name) and name not in known.fields]
    if used:
        raise invalid(f"this service does not use {', '.join(used)}: leave it 0")
    return known


# ---- contexts ----------------------------------------------------------------------------------------------------------


def _lun(luns: Luns, name: bytes) -> Lun:
    lun = luns.find(name.decode(errors="replace"))
    if lun is None:
        raise Refusal(errno.ENODEV, f"there is no LUN {name.decode(errors='replace')!r:.80} on this host")
    return lun


async def _attach(luns: Luns, request: Request, sender: Process) -> Answer:
    lun = _lun(luns, request.lun)
    if request.flags & wire.ATTACH_REUSE:
        return await _attach_again(luns, request, sender, lun)
    depth = request.depth or wire.DEPTH_DEFAULT
    if request.context or not wire.DEPTH_MIN <= depth <= wire.DEPTH_MAX or depth & (depth - 1):
        raise invalid(f"a depth is a power of two from {wire.DEPTH_MIN} to {wire.DEPTH_MAX}, and a new context has no number yet")
    async with lun.lock:
        context = await luns.attach(lun, sender, depth=depth, read_only=bool(request.flags & wire.ATTACH_READ_ONLY))
        return _about(context, wire.APP_CLOSE_ADAP_FD, context.areas.give())


async def _attach_again(luns: Luns, request: Request, sender: Process, lun: Lun) -> Answer:
    context = luns.mine(request.context, sender)
    if context.lun is not lun or request.depth or request.flags != wire.ATTACH_REUSE:
        raise invalid("a context is attached again as what it is: on its LUN, without another flag or depth")
    return _about(context, 0, [])


def _about(context: Context, flags: int, descriptors: list[int]) -> Answer:
    lun = context.lun
    chunk = lun.chunks.blocks if lun.chunks else 0
    return Answer(flags, 0, context.token, last_lba(lun.blocks), context.depth, chunk, descriptors=descriptors)


async def _detach(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        await luns.detach(luns.mine(request.context, sender), bool(request.flags & wire.SCRUB))
    return Answer(context=context.token)


async def _recover(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        luns.mine(request.context, sender)
        if context.state == "active":
            return _about(context, 0, [])
        if context.state == "dead":
            raise Refusal(errno.EIO, "an earlier recovery of this context has failed: detach it")
        await luns.recover(context)
        return _about(context, wire.CONTEXT_RESET | wire.APP_CLOSE_ADAP_FD, context.areas.give())


async def _clone(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        context = _active(luns, request, sender)
        source = luns.contexts.get(request.source)
        if source is None or source.lun is not context.lun or source is context:
            raise invalid("there is no such context to clone on this LUN")
        if source.owner.pid != sender.parent:
            raise Refusal(errno.EPERM, "only a child may clone, from the process that made it")
        if context.handles or not source.handles or any(handle.table is None for handle in source.handles.values()):
            raise invalid("clone virtual LUNs, into a context without handles")
        _refuse_beyond(source.lun, sender, sum(handle.blocks for handle in source.handles.values()))
        await source.lun.clone(source, context)
    return Answer(wire.APP_CLOSE_ADAP_FD, min(context.handles), context.token)


# ---- handles -----------------------------------------------------------------------------------------------------------


def _active(luns: Luns, request: Request, sender: Process) -> Context:
    context = luns.mine(request.context, sender)
    if context.state != "active":
        raise Refusal(errno.EIO, "the context is in error: recover it first")
    return context


def _opened(context: Context, number: int) -> Answer:
    return Answer(
        0, number, context.token, last_lba(context.handle(number).blocks), chunk_blocks=_about(context, 0, []).chunk_blocks
    )


async def _direct(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        context = _active(luns, request, sender)
        return _opened(context, await context.lun.open_direct(context))


async def _virtual(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        context = _active(luns, request, sender)
        _refuse_beyond(context.lun, sender, request.size)
        answer = _opened(context, await context.lun.open_virtual(context, request.size))
        answer.return_flags = wire.ALL_PORTS_ACTIVE if await _several_paths(context.lun.state.path) else 0
        return answer


async def _several_paths(path: str) -> bool:
    """False where its file system does not answer."""
    try:
        return await in_time(partial(several_paths, path), path)
    except DatapathError:
        return False


def _refuse_beyond(lun: Lun, sender: Process, more: int) -> None:
    """Raises EDQUOT when the user would have more of the LUN than one may."""
    limited, limit = bool(lun.state.client_size), lun.state.client_size // wire.BLOCK
    held = sum(h.blocks for c in lun.contexts if c.owner.uid == sender.uid for h in c.handles.values() if h.table is not None)
    if limited and held + more > limit:
        raise Refusal(errno.EDQUOT, f"a user may have {limit} blocks of LUN {lun.state.name}; this one has {held}")


async def _resize(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        context = _active(luns, request, sender)
        _refuse_beyond(context.lun, sender, max(0, request.size - context.handle(request.handle).blocks))
        await context.lun.resize(context, request.handle, request.size, bool(request.flags & wire.SCRUB))
        return _opened(context, request.handle)


async def _release(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    async with context.lun.lock:
        await context.lun.release(luns.mine(request.context, sender), request.handle, bool(request.flags & wire.SCRUB))
    return Answer(0, request.handle, context.token)


async def _verify(luns: Luns, request: Request, sender: Process) -> Answer:
    context = luns.mine(request.context, sender)
    if request.sense and not request.flags & wire.HINT_SENSE:
        raise invalid("sense data come with their flag")
    async with context.lun.lock:
        context = _active(luns, request, sender)
        context.handle(request.handle)
        if request.flags & wire.HINT_SENSE and sense.asks_for_a_look(request.sense):
            await context.lun.rescan()
        return _opened(context, request.handle)


async def _manage(luns: Luns, request: Request, sender: Process) -> Answer:
    lun = _lun(luns, request.lun)
    if sender.uid:
        raise Refusal(errno.EPERM, "only root may switch a LUN")
    modes = {wire.ENABLE_SUPERPIPE: "superpipe", wire.DISABLE_SUPERPIPE: "legacy"}
    if request.flags not in modes:
        raise invalid("say whether to enable or to disable superpipe")
    async with lun.lock:
        await luns.set_mode(lun, modes[request.flags])
    return Answer(last_lba=last_lba(lun.blocks if lun.chunks else 0))


_FIELDS = ("context", "source", "size", "handle", "depth", "lun", "sense")
SERVICES: dict[int, _Known] = {
    service: _Known(run, flags, frozenset(fields.split()))
    for service, run, flags, fields in (
        (Service.ATTACH, _attach, wire.ATTACH_REUSE | wire.ATTACH_READ_ONLY, "context depth lun"),
        (Service.USER_DIRECT, _direct, 0, "context"),
        (Service.USER_VIRTUAL, _virtual, 0, "context size"),
        (Service.VLUN_RESIZE, _resize, wire.SCRUB, "context handle size"),
        (Service.RELEASE, _release, wire.SCRUB, "context handle"),
        (Service.DETACH, _detach, wire.SCRUB, "context"),
        (Service.VLUN_CLONE, _clone, 0, "context source"),
        (Service.VERIFY, _verify, wire.HINT_SENSE, "context handle sense"),
        (Service.RECOVER_AFU, _recover, 0, "context"),
        (Service.MANAGE_LUN, _manage, wire.ENABLE_SUPERPIPE | wire.DISABLE_SUPERPIPE, "lun"),
    )
}
