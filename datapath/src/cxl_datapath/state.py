# SPDX-License-Identifier: GPL-3.0-or-later
"""The desired state of this host on disk: what to rebuild after a restart. Written whole, atomically, with fsync."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from .cbd.geometry import ENTRIES_MAX
from .cbd.hosting import Seat
from .cbd.layout import QUEUES_MAX, U32_MAX
from .errors import Code, DatapathError, from_errno
from .frontends import CHOICES
from .medium_id import MediumId, medium_from_json
from .memory import check_spec
from .names import check_backend_path, check_blkdev_name, check_name
from .schema import boolean, choice, integer

VERSION = 2

# What a blkdev may be asked for, now or by a file of an earlier day.
QUEUES = integer(1, QUEUES_MAX)
FRONTEND = choice(CHOICES)
IO_TIMEOUT = integer(1, 86400)  # seconds

_ID = integer(0, ENTRIES_MAX - 1)
_EPOCH = integer(0, U32_MAX)


@dataclass
class BackendState:
    id: int
    path: str
    read_only: bool
    life: int = 0  # of its entry; 0 until it is published, and in files that were written before lives were kept
    file: MediumId | None = None  # or the device that it was started on; None for a pool, and until it is known

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(
            _ID("id", raw["id"]),
            check_backend_path("backend", raw["path"]),
            boolean("read_only", raw["read_only"]),
            _EPOCH("life", raw.get("life", 0)),
            medium_from_json(raw.get("file")),
        )


@dataclass
class BlkdevState:
    id: int
    backend: int
    queues: int
    frontend: str  # as asked for, "auto" included
    name: str
    read_only: bool
    shared: bool
    io_timeout: int  # seconds that requests wait for a backend that is away
    backend_life: int  # of the backend that it was started on

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(
            _ID("id", raw["id"]),
            _ID("backend", raw["backend"]),
            QUEUES("queues", raw["queues"]),
            FRONTEND("frontend", raw["frontend"]),
            check_blkdev_name("blkdev", raw["name"]),
            boolean("read_only", raw["read_only"]),
            boolean("shared", raw["shared"]),
            IO_TIMEOUT("io_timeout", raw["io_timeout"]),
            _EPOCH("backend_life", raw["backend_life"]),
        )


@dataclass
class TransportState:
    memory: str  # as the user named it
    name: str
    uuid: str
    backends: list[BackendState] = field(default_factory=list)
    blkdevs: list[BlkdevState] = field(default_factory=list)
    seat: Seat | None = None  # None until it is registered, and in files that were written before seats were kept

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(
            check_spec(raw["memory"]),
            check_name("transport", raw["name"]),
            check_name("uuid", raw["uuid"]),
            _unique([BackendState.from_json(each) for each in _list(raw["backends"])]),
            _unique([BlkdevState.from_json(each) for each in _list(raw["blkdevs"])]),
            _seat(raw.get("seat")),
        )


def _seat(raw: Any) -> Seat | None:
    return None if raw is None else Seat(_ID("seat", raw["id"]), _EPOCH("seat", raw["epoch"]))


_NOT_UNDERSTOOD = (ValueError, KeyError, TypeError, AttributeError, RecursionError, DatapathError)


class Named(Protocol):
    name: str


Object = TypeVar("Object", bound=Named)


class ObjectFile(Generic[Object]):
    """A file with all wanted objects of one kind; `key` is what the file calls them."""

    def __init__(self, path: Path, version: int, key: str, from_json: Callable[[Any], Object]) -> None:
        self.path = path
        self._version, self._key, self._from_json = version, key, from_json

    def load(self) -> list[Object]:
        """Empty without a file. A damaged one is never guessed at: raises `corrupt`."""
        try:
            return self._understood(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise from_errno(error.errno or 0, str(self.path), "read it") from None
        except _NOT_UNDERSTOOD as error:
            hint = "restore it, or move it away to start with nothing registered"
            raise DatapathError(Code.CORRUPT, str(self.path), f"is damaged: {type(error).__name__}: {error}", hint) from None

    def save(self, objects: Sequence[Object]) -> None:
        """On return the state is on the medium; a crash before that leaves the last one. Raises what `text` does."""
        write_whole(self.path, self.text(objects))

    def text(self, objects: Sequence[Object]) -> str:
        """What is in the file for these objects.

        Raises `failed` for what `load` would refuse: a daemon that cannot read its state does not start any more.
        """
        body = {"version": self._version, self._key: [asdict(cast(Any, each)) for each in objects]}
        try:
            self._understood(body)
        except _NOT_UNDERSTOOD as error:
            what = f"could not be read again, nothing was written: {type(error).__name__}: {error}"
            raise DatapathError(
                Code.FAILED, str(self.path), what, "undo the last change; this is a fault of the daemon"
            ) from None
        return json.dumps(body, indent=1)

    def _understood(self, raw: Any) -> list[Object]:
        """The objects of a whole file. Raises one of `_NOT_UNDERSTOOD`."""
        if raw["version"] != self._version:
            raise ValueError(f"version {raw['version']!r:.20} is unknown")
        found = [self._from_json(each) for each in _list(raw[self._key])]
        if len({each.name for each in found}) < len(found):
            raise ValueError(f"two {self._key} have one name")
        return found


def write_whole(path: Path, text: str) -> None:
    """On return the text is on the medium; a crash before that leaves the file as it was."""
    temporary = path.with_suffix(".new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        hint = "make room or make the folder writable, then try again"
        raise from_errno(error.errno or 0, str(path), "write the state", hint) from None


class StateFile(ObjectFile[TransportState]):
    """`<state>/state.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "state.json", VERSION, "transports", TransportState.from_json)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


S = TypeVar("S", BackendState, BlkdevState)


def _unique(entries: list[S]) -> list[S]:
    if len({entry.id for entry in entries}) < len(entries):
        raise ValueError("two entries have one id")
    return entries


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r:.40} is not a list")
    return value
