# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for other hosts, which may take a lease and more: in threads that end when their caller does, and in words for whoever
asked and has no answer yet."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from .errors import Code, DatapathError

PATIENCE_S = 10.0  # for a file system that is asked for no more than what it has; a disk that sleeps answers within that

T = TypeVar("T")
Sleep = Callable[[float], None]


class Waits:
    """What this daemon waits for now, the oldest first. Threads may say it, too."""

    def __init__(self) -> None:
        self._words: dict[object, str] = {}

    @contextmanager
    def on(self, words: str) -> Iterator[None]:
        """`words` follow "waiting for"."""
        mark = object()
        self._words[mark] = words
        try:
            yield
        finally:
            del self._words[mark]

    def now(self) -> list[str]:
        return list(self._words.values())


async def in_thread(work: Callable[[Sleep], T], undo: Callable[[T], None] = lambda _: None) -> T:
    """Runs blocking `work(sleep)` in a thread; `sleep` raises once the caller is cancelled, and the thread ends by that.

    What it made all the same goes to `undo`. A thread that sits in the kernel meanwhile does not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    ended = threading.Event()
    done: asyncio.Future[T] = loop.create_future()

    def sleep(seconds: float) -> None:
        if ended.wait(seconds):
            raise DatapathError(Code.FAILED, "cxl-datapathd", "ended while it waited", "try again when it runs")

    def run() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = work(sleep)
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(settle, result, error)

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            if error is None:
                undo(result)
        elif error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    threading.Thread(target=run, name="wait", daemon=True).start()
    try:
        return await done
    finally:
        ended.set()


async def in_time(work: Callable[[], T], what: str, patience: float = PATIENCE_S) -> T:
    """`work` in a thread of its own: it asks `what`, whose disk or server may hang. Then neither the loop waits with it, nor the
    threads that others share. Raises `timeout`; the thread ends when its call does."""
    try:
        async with asyncio.timeout(patience):
            return await in_thread(lambda _: work())
    except TimeoutError:
        hint = "see to its disk or its server, then try again"
        raise DatapathError(Code.TIMEOUT, what, f"did not answer within {patience:g} s", hint) from None
