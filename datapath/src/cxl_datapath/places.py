# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether two paths mean one file, asked of file systems that may hang: never in the event loop, which has to beat."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .errors import Code, DatapathError
from .waits import in_time


@dataclass(frozen=True)
class Place:
    """What a path means now: through links of any kind, where it is there."""

    real: str
    file: tuple[int, int] | None  # st_dev and st_ino

    def is_same(self, other: Place) -> bool:
        return self.real == other.real or (self.file is not None and self.file == other.file)


def place_of(path: str) -> Place:
    """Blocks as long as the file system does."""
    real = os.path.realpath(path)
    try:
        found = Path(path).stat()
    except OSError:
        return Place(real, None)
    return Place(real, (found.st_dev, found.st_ino))


async def place(path: str) -> Place:
    """Raises `timeout` when its disk or server does not answer."""
    return await in_time(partial(place_of, path), path)


async def same_as(path: str, others: Iterable[str]) -> set[str]:
    """Which of `others` mean the same file as `path`. Raises `timeout` when that does not answer.

    Of the others, one that does not answer keeps nobody from the rest: it is the same only when it reads the same.
    """
    known = sorted(set(others))
    mine, *found = await asyncio.gather(place(path), *map(_place_or_text, known))
    return {other for other, there in zip(known, found, strict=True) if other == path or mine.is_same(there)}


async def _place_or_text(path: str) -> Place:
    try:
        return await place(path)
    except DatapathError as error:
        if error.code != Code.TIMEOUT:
            raise
        return Place(path, None)
