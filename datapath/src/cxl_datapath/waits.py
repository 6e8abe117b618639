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
