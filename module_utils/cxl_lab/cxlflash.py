# SPDX-License-Identifier: GPL-3.0-or-later
"""User-space LUNs: what to ask the daemon for, so that one is there, in its mode and with its limits, or gone. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from .cbd import Call, Row, Seen, check_distinct, check_medium, check_number
from .errors import LabError, shown
from .names import check_name
from .sizes import parse_size

CONTEXTS_MAX = 512
#: What a module shows of a LUN before and after.
SHOWN = ("name", "wwid", "path", "mode", "state", "read_only", "client_contexts", "client_size", "users")
#: What can be changed while the LUN is there, and what holds where nothing is said.
_LIMITS = {"client_contexts": 64, "client_size": 0, "users": []}
_WWID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class LunWant:
    """A LUN on this path. ``limits`` are those that the user chose."""

    name: str
    path: str
    state: str
    mode: str | None
    wwid: str | None
    read_only: bool
    limits: Row

    @property
    def subject(self) -> str:
        return f"LUN {self.name}"

    @property
    def wanted(self) -> Row | None:
        """What the LUN will be, as far as that is known; None for none."""
        if self.state == "absent":
            return None
        made = {"name": self.name, "path": self.path, "mode": self.mode or "superpipe", "read_only": self.read_only}
        return {**made, **_LIMITS, **self.limits}


def parse(item: Row) -> LunWant:
    """Checks an entry of the user's list.

    :raises LabError: for a name, a path or a limit that cannot be.
    """
    subject = f"LUN {item['name']}"
    limits: Row = {}
    if item.get("client_contexts") is not None:
        limits["client_contexts"] = check_number(item["client_contexts"], f"{subject}: client_contexts", 1, CONTEXTS_MAX)
    if item.get("client_size") is not None:
        limits["client_size"] = _size(item["client_size"], f"{subject}: client_size")
    if item.get("users") is not None:
        limits["users"] = list(item["users"])
    wwid = item.get("wwid")
    if wwid is not None and not _WWID.fullmatch(wwid):
        raise LabError(f"{subject}: wwid", f"{shown(wwid)} is no WWID", "write 32 hexadecimal digits, in lower case")
    path = check_medium(item["path"], f"{subject}: path") if item.get("path") else ""
    return LunWant(
        check_name(item["name"], "LUN"), path, item["state"], item.get("mode"), wwid, bool(item.get("read_only")), limits
    )


def _size(value: object, subject: str) -> int:
    return 0 if value in (0, "0") else parse_size(value, subject)


def check(wants: list[LunWant]) -> None:
    """Refuses a list in which one LUN is meant twice.

    :raises LabError: when it is.
    """
    keys: list[tuple[str, tuple[str, str]]] = [(want.subject, ("name", want.name)) for want in wants]
    keys += [(want.subject, ("path", os.path.realpath(want.path))) for want in wants if want.path]
    keys += [(want.subject, ("wwid", want.wwid)) for want in wants if want.wwid]
    check_distinct(keys)


def find(want: LunWant, seen: Seen) -> list[Row]:
    """The LUN of this name."""
    return [row for row in seen["luns"] if row.get("name") == want.name]


def plan(want: LunWant, seen: Seen, foresee: bool) -> list[Call]:
    """The calls that make of ``seen`` what is wanted.

    :raises LabError: when the LUN is there as something that cannot be changed.
    """
    have = next(iter(find(want, seen)), None)
    if want.state == "absent":
        return [Call(f"remove LUN {want.name}", "lun.remove", {"lun": want.name})] if have else []
    if have is None:
        params = {"name": want.name, "path": want.path, "mode": want.mode or "superpipe", "read_only": want.read_only}
        return [Call(f"make {want.path} LUN {want.name}", "lun.create", {**params, "wwid": want.wwid, **want.limits})]
    _check_same(want, have)
    changed = {key: value for key, value in want.limits.items() if have.get(key) != value}
    if want.mode not in (None, have.get("mode")):
        changed["mode"] = want.mode
    if not changed:
        return []
    return [Call(f"set {', '.join(sorted(changed))} of LUN {want.name}", "lun.set", {"lun": want.name, **changed})]


def _check_same(want: LunWant, have: Row) -> None:
    """What a LUN is made of does not change under those who use it."""
    wanted: Row = {"path": want.path, "wwid": want.wwid, "read_only": want.read_only}
    for key, value in wanted.items():
        same = os.path.realpath(str(have.get(key))) == os.path.realpath(str(value)) if key == "path" else have.get(key) == value
        if value is not None and not same:
            problem = f"has {key} {shown(have.get(key))}, not {shown(value)}"
            raise LabError(want.subject, problem, "remove it first (state: absent), or choose another name", observed=have)
