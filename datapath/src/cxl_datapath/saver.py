# SPDX-License-Identifier: GPL-3.0-or-later
"""Wanted objects on their way to the disk: one write at a time, and not in the event loop, which beats while a disk hangs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Generic

from .errors import Code, DatapathError
from .state import Object, ObjectFile, write_whole
from .waits import in_thread

SAVE_S = 15.0  # far more than an fsync takes on a disk that is only busy

log = logging.getLogger(__name__)


class Saver(Generic[Object]):
    """`objects` gives what is wanted at the moment when it is written."""

    def __init__(self, file: ObjectFile[Object], objects: Callable[[], Sequence[Object]], patience: float = SAVE_S) -> None:
        self._file = file
        self._objects = objects
        self._patience = patience  # seconds
        self._turn = asyncio.Lock()
        self._late: set[asyncio.Task[None]] = set()

    async def save(self) -> None:
        """On return the state is on the medium. Raises what `ObjectFile.text` and `write_whole` do, and `timeout`.

        A write that hangs may still come to its end, with what was given up meanwhile: then what is wanted is written once more.
        """
        writing = asyncio.ensure_future(self._write())
        try:
            await asyncio.wait_for(asyncio.shield(writing), self._patience)
        except TimeoutError:
            late = asyncio.create_task(self._end(writing), name=f"late write of {self._file.path}")
            self._late.add(late)
            late.add_done_callback(self._late.discard)
            what, hint = f"cannot write the state: not done within {self._patience:g} s", "see to its disk, then try again"
            raise DatapathError(Code.TIMEOUT, str(self._file.path), what, hint) from None

    async def _write(self) -> None:
        async with self._turn:
            text = self._file.text(self._objects())
            await in_thread(lambda _: write_whole(self._file.path, text))

    async def _end(self, writing: asyncio.Task[None]) -> None:
        """Whoever asked for it was told that it failed. What is wanted now may be something else."""
        await asyncio.wait({writing})
        try:
            writing.result()
            await self._write()
        except DatapathError as error:
            log.warning("%s", error)
