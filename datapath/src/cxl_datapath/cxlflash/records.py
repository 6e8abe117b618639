# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next daemon has to know about the contexts of this one: a file for each, beside the service socket.

They end with their processes, and so with the boot of the host: they are written whole but not synced, and belong on a tmpfs.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ..errors import Code, DatapathError
from ..medium_id import MediumId, medium_from_json
from ..schema import boolean, integer
from .chunks import CHUNK_MIN_BLOCKS
from .process import Process
from .wire import CONTEXTS_MAX, DEPTH_MAX, DEPTH_MIN, HANDLES_MAX
from .wwid import check_wwid

VERSION = 1
_NUMBER_MAX = (1 << 63) - 1
_NUMBER = integer(0, _NUMBER_MAX)
_CHUNK = integer(0, (1 << 32) - 1)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """A context, and the medium and shape of its LUN: its tables mean nothing without. `handles`: number -> (blocks, table)."""

    wwid: str
    lun_blocks: int
    chunk_blocks: int
    token: int
    slot: int
    owner: Process
    depth: int
    read_only: bool
    handles: dict[int, tuple[int, tuple[int, ...] | None]]
    medium: MediumId | None = None

    def to_json(self) -> dict[str, Any]:
        owner = {"pid": self.owner.pid, "start": self.owner.start, "uid": self.owner.uid, "parent": self.owner.parent}
        handles = [{"handle": number, "blocks": blocks, "table": table} for number, (blocks, table) in self.handles.items()]
        medium = asdict(self.medium) if self.medium else None
        return {"version": VERSION, **vars(self), "boot": _boot(), "owner": owner, "handles": handles, "medium": medium}

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Raises what a reader of hostile JSON has to expect."""
        if raw["version"] != VERSION or raw["boot"] != _boot():
            raise ValueError("it is of another version or boot")
        owner = Process(*(_NUMBER(key, raw["owner"][key]) for key in ("pid", "start", "uid", "parent")))
        depth = integer(DEPTH_MIN, DEPTH_MAX)("depth", raw["depth"])
        if depth & (depth - 1):
            raise ValueError(f"depth {depth}")
        return cls(
            check_wwid("wwid", raw["wwid"]),
            integer(1, _NUMBER_MAX)("lun_blocks", raw["lun_blocks"]),
            integer(CHUNK_MIN_BLOCKS, _NUMBER_MAX)("chunk_blocks", raw["chunk_blocks"]),
            integer(1, 1 << 63)("token", raw["token"]),
            integer(0, CONTEXTS_MAX - 1)("slot", raw["slot"]),
            owner,
            depth,
            boolean("read_only", raw["read_only"]),
            dict(_handle(each, raw["chunk_blocks"]) for each in raw["handles"]),
            medium_from_json(raw.get("medium")),
        )


def _handle(raw: Any, chunk_blocks: int) -> tuple[int, tuple[int, tuple[int, ...] | None]]:
    number, blocks = integer(0, HANDLES_MAX - 1)("handle", raw["handle"]), _NUMBER("blocks", raw["blocks"])
    if raw["table"] is None:
        return number, (blocks, None)
    table = tuple(_CHUNK("table", chunk) for chunk in raw["table"])
    if len(set(table)) < len(table) or len(table) != -(-blocks // chunk_blocks):
        raise ValueError(f"handle {number} does not fit its table")
    return number, (blocks, table)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Records:
    def __init__(self, runtime: Path) -> None:
        self._folder = runtime / "lun-contexts"

    def save(self, record: Record) -> None:
        """What cannot be written is forgotten: better no recovery than one to blocks that others have by now.

        Raises `failed` when not even that is possible.
        """
        path = self._path(record.token)
        temporary = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            temporary.write_text(json.dumps(record.to_json()))
            temporary.replace(path)
        except OSError as error:
            log.warning("%s: %s: the context would not survive a restart of the daemon", path, error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self.forget(record.token)

    def forget(self, token: int) -> None:
        try:
            self._path(token).unlink(missing_ok=True)
        except OSError as error:
            path = self._path(token)
            raise DatapathError(
                Code.FAILED, str(path), f"cannot be removed: {error.strerror}", "make the folder writable"
            ) from None

    def load(self) -> list[Record]:
        """Those that can be understood; the others are removed, with a word in the log."""
        found = []
        for path in sorted(self._folder.glob("*")) if self._folder.is_dir() else []:
            try:
                record = Record.from_json(json.loads(path.read_bytes()))
                if path != self._path(record.token):
                    raise ValueError("it has another name")
                found.append(record)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DatapathError) as error:
                log.warning("%s: is no record of a context (%s: %s): removed", path, type(error).__name__, error)
                with contextlib.suppress(OSError):
                    path.unlink()
        return found

    def _path(self, token: int) -> Path:
        return self._folder / f"{token:016x}.json"
