# SPDX-License-Identifier: GPL-3.0-or-later
"""The LUNs that this host is to have, on disk. Contexts and virtual LUNs are not in it: they end with their processes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..errors import Code, DatapathError
from ..names import check_backend_path, check_name
from ..schema import boolean, choice, integer
from ..state import ObjectFile
from .wire import CONTEXTS_MAX
from .wwid import check_wwid

VERSION = 1
MODES = ("superpipe", "legacy")
CLIENT_CONTEXTS_DEFAULT = 64
SIZE_MAX = (1 << 63) - 1
_USER = re.compile(r"[0-9]{1,10}|(?=.{1,63}\Z)[A-Za-z_][A-Za-z0-9._-]*\$?")  # useradd(8), and a uid


@dataclass
class LunState:
    wwid: str
    name: str
    path: str
    mode: str  # superpipe: ours alone; legacy: we keep away from it
    read_only: bool = False
    client_contexts: int = CLIENT_CONTEXTS_DEFAULT  # of one process
    client_size: int = 0  # bytes of all virtual LUNs of one user; 0: as many as there are
    users: list[str] = field(default_factory=list)  # names or numbers; empty: whoever reaches the socket

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        return cls(
            check_wwid("wwid", raw["wwid"]),
            check_name("LUN", raw["name"]),
            check_backend_path("LUN", raw["path"]),
            choice(MODES)("mode", raw["mode"]),
            boolean("read_only", raw["read_only"]),
            integer(1, CONTEXTS_MAX)("client_contexts", raw["client_contexts"]),
            integer(0, SIZE_MAX)("client_size", raw["client_size"]),
            check_users("users", raw["users"]),
        )


def check_users(field: str, value: Any) -> list[str]:
    """A list of user names or numbers. Names need not be known yet."""
    if not isinstance(value, list):
        raise DatapathError(Code.INVALID, field, f"{value!r:.60} is not a list of users")
    for each in value:
        if not isinstance(each, str) or not _USER.fullmatch(each):
            hint = "write a user name, or the number of one in quotes"
            raise DatapathError(Code.INVALID, field, f"{each!r:.60} is no user", hint)
    return value


class LunFile(ObjectFile[LunState]):
    """`<state>/luns.json`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "luns.json", VERSION, "luns", LunState.from_json)

    def _understood(self, raw: Any) -> list[LunState]:
        found = super()._understood(raw)
        if len({each.wwid for each in found}) < len(found):
            raise ValueError("two LUNs have one WWID")
        return found
