# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps one worker process running: starts it, listens to it, starts it again with back-off when it dies.

The reason of the last failure (the worker's own error, else the end of its stderr) stays readable, so that what went wrong in
the depths reaches the user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any

from .errors import Code, DatapathError, about

READY_S = 30.0  # a worker that says neither ready nor failed for this long is stopped
STOP_S = 30.0
KILL_S = 5.0
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 15.0
_TAIL_LINES = 20
_LAST_WORDS_S = 0.5  # for what is still in the stderr pipe when the worker is gone
_LINE_MAX = 1 << 20
_BUS_ERROR_HINT = "memory that it maps is not there: was its file cut short, is the file system full, or the memory poisoned?"

log = logging.getLogger(__name__)


class Phase(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # failed; will be started again
    STOPPED = "stopped"


class Supervised:
    """One wanted worker. `configure` gives its configuration at each start, and may raise why it cannot start now; descriptors
    in its list `inherit` are handed over.

    `answer` is for a worker that asks for something while it runs (event "ask"); what it returns or raises goes back to it.
    """

    def __init__(
        self,
        kind: str,
        label: str,
        configure: Callable[[], Awaitable[dict[str, Any]]],
        on_bell: Callable[[], None],
        answer: Callable[[], Awaitable[dict[str, Any]]] | None = None,
    ) -> None:
        self._kind = kind
        self.label = label
        self._configure = configure
        self._on_bell = on_bell
        self._answer = answer
        self._answering: asyncio.Task[None] | None = None
        self.phase = Phase.STOPPED
        self.info: dict[str, Any] = {}
        self.error: DatapathError | None = None
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._hurry = asyncio.Event()
        self._busy: DatapathError | None = None
        self._stopping = False

    def to_json(self) -> dict[str, Any]:
        return {
            "state": str(self.phase),
            "pid": self._process.pid if self._process else None,
            "restarts": self.restarts,
            "error": self.error.to_json() if self.error else None,
            "info": self.info,
        }

    def keep(self) -> None:
        """Starts in the background and keeps trying."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name=self.label)

    async def start(self) -> None:
        """Returns when the worker is ready. Raises its error; it goes on being tried until `stop` or `kill`."""
        self.error = None
        self._hurry.set()
        self.keep()
        task = self._task
        async with self._changed:
            # `end` may come from elsewhere meanwhile, when the transport is lost: then nothing will ever be ready.
            await self._changed.wait_for(lambda: self.phase == Phase.RUNNING or self.error is not None or self._task is not task)
        if self.phase != Phase.RUNNING:
            raise self.error or DatapathError(
                Code.NOT_READY, self.label, "was stopped before it was ready", "see why: cxl-datapath status"
            )

    async def stop(self) -> None:
        """Asks the worker to stop; raises `busy` when it says that it is in use, and then leaves it running."""
        process = self._process
        if process is not None and process.returncode is None and self.phase == Phase.RUNNING:
            self._busy, self._stopping = None, True
            self._command(process, "stop")
            async with self._changed:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._changed.wait_for(lambda: self._busy is not None or self.phase != Phase.RUNNING), STOP_S
                    )
            if self._busy is not None:
                self._stopping = False
                raise self._busy
        await self.end(KILL_S)

    async def end(self, patience: float) -> None:
        """Stops for good: SIGTERM, and SIGKILL after `patience` seconds."""
        process = self._process
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            done, _ = await asyncio.wait([task], timeout=patience)
            if not done and process.returncode is None:
                log.warning("%s: did not stop within %.0f s: killed", self.label, patience)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._stopping = False
        await self._set(Phase.STOPPED)

    async def _keep(self) -> None:
        delay = BACKOFF_FIRST_S
        while True:
            self._hurry.clear()
            try:
                await self._run_once()
                return
            except Exception as error:
                if self.phase == Phase.RUNNING:
                    delay = BACKOFF_FIRST_S
                    self.restarts += 1
                self.error = _as_datapath_error(error, self.label)
                log.warning("%s%s", about(self.label, self.error), "" if self._stopping else f"; next try in {delay:.1f} s")
            if self._stopping:
                await self._set(Phase.STOPPED)  # `stop` waits for a word of a worker that is gone
                return
            await self._set(Phase.WAITING)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), delay)
            delay = min(delay * 2, BACKOFF_MAX_S)

    async def _run_once(self) -> None:
        """One life of the process. Returns after an end that was asked for; raises what ended it otherwise."""
        await self._set(Phase.STARTING)
        config = await self._configure()
        process = await self._spawn(tuple(config.get("inherit", ())))
        self._process = process
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        listener = asyncio.create_task(self._listen_stderr(process, tail))
        try:
            self._write(process, config)
            reported = await self._listen(process)
            status = await _exit_status(process)
            await asyncio.wait([listener], timeout=_LAST_WORDS_S)
        finally:
            if process.returncode is None:
                await self._kill(process)
            listener.cancel()
            if self._answering is not None:
                self._answering.cancel()
            self._process = None
        # One that is told to end before it can listen ends by the signal itself.
        if status in (0, -signal.SIGTERM) and self._stopping and reported is None:
            await self._set(Phase.STOPPED)
            return
        raise reported or self._unexplained(status, tail)

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        """One that waits in the kernel for a device that answers nothing ends with that wait. It does nothing else any more, and
        keeps its locks until then, so that nobody has to wait for it."""
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        try:
            await asyncio.wait_for(_exit_status(process), KILL_S)
        except TimeoutError:
            what = f"was killed, but waits in the kernel for a device that does not answer; process {process.pid} ends with that"
            log.warning("%s: %s", self.label, what)

    async def _spawn(self, inherit: tuple[int, ...]) -> asyncio.subprocess.Process:
        """`inherit`: descriptors that become the worker's, under their numbers."""
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "cxl_datapath.worker",
                self._kind,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_MAX,
                cwd="/",
                start_new_session=True,
                pass_fds=inherit,
            )
        finally:
            for fd in inherit:
                os.close(fd)

    async def _listen(self, process: asyncio.subprocess.Process) -> DatapathError | None:
        """Handles events until the pipe ends; returns the error that the worker reported, if any."""
        assert process.stdout is not None
        reported: DatapathError | None = None
        while True:
            patience = READY_S if self.phase == Phase.STARTING else None
            try:
                line = await asyncio.wait_for(process.stdout.readline(), patience)
                event = json.loads(line) if line else None
                if event is None:
                    return reported
                if event["event"] == "ask" and self._answer is not None:
                    self._answering = asyncio.create_task(self._reply(process, self._answer))
                else:
                    reported = await self._handle(event["event"], event) or reported
            except TimeoutError:
                return DatapathError(Code.TIMEOUT, self.label, f"was not ready within {READY_S:.0f} s")
            except (ValueError, KeyError, TypeError) as error:
                return DatapathError(Code.FAILED, self.label, f"wrote what is no event ({type(error).__name__})")

    async def _handle(self, event: str, body: dict[str, Any]) -> DatapathError | None:
        match event:
            case "bell":
                self._on_bell()
            case "ready":
                self.info, self.error = dict(body["info"]), None
                await self._set(Phase.RUNNING)
            case "info":
                self.info = {**self.info, **body["info"]}
            case "busy":
                async with self._changed:
                    self._busy = DatapathError.from_json(body["error"])
                    self._changed.notify_all()
            case "failed":
                return DatapathError.from_json(body["error"])
            case _:
                log.warning("%s: unknown event %.40s", self.label, event)
        return None

    async def _listen_stderr(self, process: asyncio.subprocess.Process, tail: deque[str]) -> None:
        assert process.stderr is not None
        while data := await process.stderr.read(65536):
            for line in filter(str.strip, data.decode(errors="replace").splitlines()):
                tail.append(line)
                log.info("%s", about(self.label, line))

    def _unexplained(self, status: int, tail: deque[str]) -> DatapathError:
        how = f"was ended by {_signal_name(-status)}" if status < 0 else f"ended with status {status}"
        hint = _BUS_ERROR_HINT if status == -signal.SIGBUS else ""
        return DatapathError(Code.FAILED, self.label, how + (f": {tail[-1]}" if tail else ""), hint)

    async def _reply(self, process: asyncio.subprocess.Process, answer: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        try:
            message = await answer()
        except Exception as error:
            message = {"error": _as_datapath_error(error, self.label).to_json()}
        with contextlib.suppress(ConnectionError):
            self._write(process, {"answer": message})

    def _command(self, process: asyncio.subprocess.Process, command: str) -> None:
        with contextlib.suppress(ConnectionError):
            self._write(process, {"command": command})

    def _write(self, process: asyncio.subprocess.Process, message: dict[str, Any]) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _set(self, phase: Phase) -> None:
        async with self._changed:
            self.phase = phase
            self._changed.notify_all()


async def _exit_status(process: asyncio.subprocess.Process) -> int:
    """The status of a process that is about to end. `Process.wait` would also wait for all who inherited its stderr."""
    while process.returncode is None:
        await asyncio.sleep(0.02)
    return process.returncode


def _signal_name(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _as_datapath_error(error: Exception, label: str) -> DatapathError:
    if isinstance(error, DatapathError):
        return error
    log.error("%s", label, exc_info=error)
    return DatapathError(Code.FAILED, label, f"cannot be started: {type(error).__name__}: {error}")
