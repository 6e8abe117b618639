# SPDX-License-Identifier: GPL-3.0-or-later
"""The files by which others find this daemon and stay out of its way: without them it would be there, and reach nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

from .errors import Code, DatapathError, from_errno
from .file_id import why_not_at
from .waits import in_thread

LOOK_S = 1.0  # between two looks

_HINT = "start it again: it makes its folder anew, and rebuilds what it served; keep what cleans up away from that folder"


async def until_removed(paths: Iterable[Path]) -> DatapathError:
    """Returns once a file is not at its path any more, or another one is, with the error that says so. Raises where one is not
    there to begin with. A file system that hangs says nothing."""
    try:
        known = {path: path.stat() for path in paths}
    except OSError as error:
        raise from_errno(error.errno or 0, str(error.filename), "look at it") from None

    def look(_: object) -> DatapathError | None:
        for path, was in known.items():
            if why := why_not_at(str(path), was):
                return DatapathError(Code.FAILED, str(path), f"{why}: nobody reaches this daemon there, it ends", _HINT)
        return None

    while (found := await in_thread(look)) is None:
        await asyncio.sleep(LOOK_S)
    return found
