# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from a blkdev to its backend: channels that the backend serves, found broken or gone, and replaced.

A backend that was restarted, or taken over by another host, has no handlers on our channels any more. Then the daemon is asked
for fresh ones, they are published, and once the backend serves them the front end is moved there with all requests in flight. A
backend that is away for longer than the I/O timeout costs its requests: they fail until it is back.

Channels that look well while nothing comes back may have a hole in their rings, a damaged slot that the other side waits for.
Fresh channels heal that, so they are asked for once before the I/O timeout. A backend that was only slow finishes what it has in
hand before it serves them.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from ..cbd.changed import why_changed, why_transport_lost
from ..cbd.fencing import is_fenced
from ..cbd.layout import BackendEntry, BlkdevEntry, State
from ..cbd.lines import ControlLine
from ..cbd.liveness import Liveness
from ..core import ChannelConf
from ..errors import Code, DatapathError
from ..forgotten import is_unserved
from .attach import Attached
from .link import Command, Link

ANSWER_S = 5.0
RETRY_S = 1.0  # between two times that fresh channels are asked for
POLL_FAST_S = 0.02  # while requests wait
SETTLE_S = 0.3  # a backend that starts again says so within that
SILENCE_S = 5.0  # without an answer, or half the I/O timeout: longer than a disk needs for most requests


class PathState(StrEnum):
    SERVING = "serving"
    PAUSED = "paused"  # requests wait
    OFFLINE = "offline"  # requests fail


class Movable(Protocol):
    """What a route needs of a front end."""

    def rebind(self, channels: list[ChannelConf]) -> None: ...

    def set_offline(self, error: int) -> None: ...

    def progress(self) -> list[tuple[int, int]]: ...


class Route:
    """The channels of one blkdev. `entry` is what is published, `bound` what the front end uses."""

    def __init__(
        self,
        link: Link,
        transport: Attached,
        blkdev_id: int,
        epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._transport = transport
        self._registry = transport.registry
        self._id = blkdev_id
        self._clock = clock
        self.lease_s = transport.info.lease_s
        self._liveness = Liveness(self.lease_s, clock)
        self.entry = self._own_entry(epoch)
        self.bound = self.entry
        self._removed = False
        self._answered: dict[int, int] = {}  # by queue: how many requests had come back
        self._moved: dict[int, float] = {}  # and when the last one did, or none was under way
        self._renewed = False  # whether the channels are fresh since then
        self.backend = self._first_backend()
        self.state = PathState.SERVING
        self._reason = ""
        self._broken_since: float | None = None
        self._away = False  # whether the backend's host is
        self._paused_away = False  # whether it was seen away since this pause began
        self._asked_at: float | None = None
        self._published_at = clock()

    @property
    def _what(self) -> str:
        return f"blkdev {self._id}"

    # ---- publishing ----------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Says on every channel that we are there; the daemon wrote the entry that names them."""
        self._say(self.entry, State.RUNNING)
        self._published_at = self._clock()
        self._link.emit("bell")

    def wait_answered(self) -> None:
        """Returns when the backend serves every channel, fresh ones where it was started again meanwhile. Raises `timeout`, and
        why the daemon has no fresh ones. No front end uses the channels yet."""
        while (silent := self._unanswered(self._read_backend() or self.backend)) is not None:
            command = self._link.wait(0.005)
            if command is Command.ANSWER:
                self._answered_first(self._link.answer)
            elif command is not None:
                raise DatapathError(Code.FAILED, self._what, "stopped before the backend answered")
            elif self._is_outdated():
                self._ask(self._clock())
            elif self._clock() - self._published_at > ANSWER_S:
                raise self._no_answer(silent)
        self._bind()

    def _answered_first(self, answer: dict[str, Any]) -> None:
        if "error" in answer:
            raise DatapathError.from_json(answer["error"])
        self.answered(answer)
        self.backend = self._first_backend()

    def _is_outdated(self) -> bool:
        """Whether the backend was started again since our channels were chosen: it answers on others only."""
        backend = self._read_backend()
        return self._asked_at is None and backend is not None and backend.epoch != self.entry.backend_epoch

    def close(self) -> None:
        """The entry stays: it keeps the id and the backend for this host until the daemon clears it."""
        if self._registry.blkdevs.still(self.entry):
            self._say(self.entry, State.NONE)
            self._link.emit("bell")

    def confs(self) -> list[ChannelConf]:
        pairs = zip(self.entry.channels, self.entry.channel_epochs, strict=True)
        return [self._transport.queue_conf(channel, epoch) for channel, epoch in pairs]

    # ---- watching ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises when the entry or the lines are not ours any more. Not while the daemon writes a new entry for us."""
        if self._asked_at is not None:
            return
        if not self._registry.blkdevs.still(self.entry):
            raise why_changed(self._registry, self._registry.blkdevs, self.entry)
        for channel, line in self._lines(self.entry, State.RUNNING):
            if self._registry.lines(channel).blkdev != line:
                if (lost := why_transport_lost(self._registry, self._what)) is not None:
                    raise lost
                hint = f"look at: cxl-datapath cbd blkdev list {self._registry.info.name}"
                what = f"its line on channel {channel} was changed by somebody else"
                raise DatapathError(Code.CORRUPT, self._what, what, hint)

    def step(self, frontend: Movable, io_timeout: float) -> bool:
        """One look; moves the front end, or fails its requests, when it is time. Whether a fast next look is worth it."""
        now = self._clock()
        broken = self._trouble()
        trouble = broken or self._doubt(frontend, now, io_timeout)
        if trouble is None and self.entry is not self.bound:
            self._move(frontend)
        if trouble is None and self.state is not PathState.OFFLINE:
            self._settle()
            if now - self._silent_since > io_timeout:
                frontend.set_offline(errno.EIO)
                self._broken_since = now
                self._report(PathState.OFFLINE, f"the backend answered no request for {io_timeout:g} s")
            return False
        if self._broken_since is None:
            self._broken_since, self._paused_away = now if broken else self._silent_since, self._away
            self._report(PathState.PAUSED, trouble or "")
        elif self._away and not self._paused_away:
            self._broken_since, self._paused_away = now, True  # it was silent because it is away: that has a time of its own
            self._report(self.state, trouble or "")
        elif trouble and trouble != self._reason:
            self._report(self.state, trouble)
        if self._may_ask(now):
            self._ask(now)
        if self.state is PathState.PAUSED and (self._removed or now - self._broken_since > io_timeout):
            frontend.set_offline(errno.EIO)
            self._report(PathState.OFFLINE, trouble or f"away for {io_timeout:g} s")
        return self.state is PathState.PAUSED

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._link.emit("ask")

    def _doubt(self, frontend: Movable, now: float, io_timeout: float) -> str | None:
        """Why channels that look well should be replaced: requests are under way, and none has come back for some seconds."""
        if self.state is PathState.OFFLINE:
            return None
        for queue, (submitted, answered) in enumerate(frontend.progress()):
            if submitted == answered or answered != self._answered.get(queue) or queue not in self._moved:
                self._answered[queue], self._moved[queue] = answered, now
        silent = now - self._silent_since > min(SILENCE_S, io_timeout / 2)
        self._renewed &= silent
        fresh = self._renewed or self.entry is not self.bound
        return "the backend answers no request" if silent and not fresh else None

    @property
    def _silent_since(self) -> float:
        """Since when the queue that has waited longest waits; now when none does."""
        return min(self._moved.values(), default=self._clock())

    def pause(self) -> None:
        """The front end is started on channels that nobody serves yet."""
        self._bind()
        self._broken_since = self._clock()
        self._report(PathState.PAUSED, "the backend has not answered yet")

    def answered(self, answer: dict[str, Any]) -> None:
        """What the daemon says to our asking: the epoch of the entry that it wrote, or why there are no channels."""
        self._asked_at = None
        if "error" in answer:
            print(f"{self._what}: no fresh channels: {DatapathError.from_json(answer['error'])}", file=sys.stderr)
            self._published_at = self._clock()  # not at once again
            return
        self.entry = self._own_entry(int(answer["epoch"]))
        self.publish()

    def _trouble(self) -> str | None:
        """Why the published channels do not serve; None when they do."""
        backend = self._read_backend()
        if self._removed:
            return f"backend {self.entry.backend_id} was stopped or cleared; stop this blkdev, then start one on another backend"
        if backend is None:
            return "the backend's entry cannot be read"
        dead = self._is_dead(backend)
        self._away = dead or is_fenced(self._registry, backend.host_id, backend.host_epoch)
        channel = self._unanswered(backend)
        host, back = self._registry.host_name(backend.host_id), not dead and is_unserved(self._registry, backend)
        if back and (self._away or channel is not None):
            see = f"see why, on {host}: cxl-datapath cbd backend list {self._registry.info.name}"
            return f"its host {host} is back and does not serve it; {see}"
        if self._away:
            return f"its host {host} is away"
        if backend.epoch != self.entry.backend_epoch:
            return "the backend was restarted"
        return None if channel is None else f"the backend does not serve channel {channel}"

    def _is_dead(self, backend: BackendEntry) -> bool:
        self._liveness.observe(backend.host_id, self._registry.heartbeat(backend.host_id), backend.host_epoch)
        return self._liveness.alive(backend.host_id, backend.host_epoch) is False

    def _may_ask(self, now: float) -> bool:
        """Whether to ask for channels: a backend is there that could serve them, and what was published has had its time."""
        backend = self._read_backend()
        if self._asked_at is not None or self._broken_since is None or backend is None or not self._could_serve(backend):
            return False
        if backend.epoch != self.entry.backend_epoch:
            return now - self._published_at > POLL_FAST_S
        if self.entry is not self.bound:
            return now - self._published_at > ANSWER_S
        return now - self._broken_since > SETTLE_S and now - self._published_at > RETRY_S

    def _could_serve(self, backend: BackendEntry) -> bool:
        """Whether it is alive, and the device that our users know."""
        if is_fenced(self._registry, backend.host_id, backend.host_epoch) or self._is_dead(backend):
            return False
        return backend.life == self.backend.life

    # ---- moving ----------------------------------------------------------------------------------------------------------

    def _move(self, frontend: Movable) -> None:
        """The new channels are served: requests go there, those in flight first; then the old ones are given back."""
        frontend.rebind(self.confs())
        # Silence goes on counting over fresh channels of the same backend: they may not have been what was wrong.
        self._renewed = self.entry.backend_epoch == self.bound.backend_epoch and self.state is not PathState.OFFLINE
        if not self._renewed:
            self._moved.clear()
        self._bind()
        self._broken_since = None
        self._report(PathState.SERVING, "")

    def _bind(self) -> None:
        """The front end uses the published channels from now on: those that it had are given back."""
        kept = set(self.entry.channels)
        for channel, line in self._lines(self.bound, State.NONE):
            if channel not in kept:
                self._registry.write_blkdev_line(channel, line)
        self.bound = self.entry

    def _settle(self) -> None:
        if self.state is not PathState.SERVING:
            self._moved.clear()
            self._report(PathState.SERVING, "")
        self._broken_since = None

    def _report(self, state: PathState, why: str) -> None:
        if state is not self.state:
            print(f"{self._what}: {state}{': ' if why else ''}{why}", file=sys.stderr)
        self.state, self._reason = state, why
        self._link.emit("info", info=self.describe())

    def describe(self) -> dict[str, Any]:
        """For people and programs that ask the daemon."""
        return {"path_state": str(self.state), "path_reason": self._reason or None, "epoch": self.entry.epoch}

    # ---- what is in the transport ------------------------------------------------------------------------------------------

    def _own_entry(self, epoch: int) -> BlkdevEntry:
        entry = self._registry.blkdevs.read(self._id)
        mine = (self._transport.ref.host_id, self._transport.ref.host_epoch, epoch)
        if entry is None or entry.state != State.RUNNING or (entry.host_id, entry.host_epoch, entry.epoch) != mine:
            hint = "look at: cxl-datapath cbd blkdev list"
            raise DatapathError(Code.CORRUPT, self._what, "its entry is not the one that the daemon wrote", hint)
        return entry

    def _read_backend(self) -> BackendEntry | None:
        """The running backend; None when it cannot be read. One that was stopped or cleared on purpose never comes back: what
        starts under its number later is another device."""
        try:
            backend = self._registry.backends.read(self.entry.backend_id)
        except DatapathError:
            return None
        self._removed = self._removed or backend is None or backend.state == State.NONE
        return None if self._removed else backend

    def _first_backend(self) -> BackendEntry:
        """Raises `not_ready` where it was stopped, and why its entry cannot be read: then it may run all the same."""
        self._registry.backends.read(self.entry.backend_id)
        backend = self._read_backend()
        if backend is None:
            raise DatapathError(
                Code.NOT_READY, f"backend {self.entry.backend_id}", "is not running", "start it on its host first"
            )
        return backend

    def _lines(self, entry: BlkdevEntry, state: State) -> list[tuple[int, ControlLine]]:
        pairs = enumerate(zip(entry.channels, entry.channel_epochs, strict=True))
        fixed = (entry.id, entry.backend_id)
        return [(c, ControlLine(state, epoch, *fixed, queue, entry.host_id, entry.host_epoch)) for queue, (c, epoch) in pairs]

    def _say(self, entry: BlkdevEntry, state: State) -> None:
        for channel, line in self._lines(entry, state):
            self._registry.write_blkdev_line(channel, line)

    def _unanswered(self, backend: BackendEntry) -> int | None:
        """The first channel without the backend's answer."""
        for queue, (channel, epoch) in enumerate(zip(self.entry.channels, self.entry.channel_epochs, strict=True)):
            numbers = (epoch, self.entry.id, backend.id, queue, backend.host_id, backend.host_epoch)
            if self._registry.lines(channel).backend != ControlLine(State.RUNNING, *numbers):
                return channel
        return None

    def _no_answer(self, channel: int) -> DatapathError:
        line = self._registry.lines(channel).backend
        seen = f"its line says state {line.state.name.lower()}, epoch {line.epoch}" if line else "it has no valid line"
        owner = self._registry.host_name(self.backend.host_id)
        return DatapathError(
            Code.TIMEOUT,
            f"backend {self.backend.id} on host {owner}",
            f"did not answer on channel {channel} within {ANSWER_S:.0f} s ({seen})",
            f"look at: cxl-datapath status, on {owner}",
        )
