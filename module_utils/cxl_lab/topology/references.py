# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of a topology that name each other."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from ..errors import shown
from .fields import Errors
from .records import DEFAULT_BRIDGE


def drop_unknown_references(errors: Errors, entries: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """Reports names that no entry has, and takes them out so that nothing else stumbles over them."""
    names = {
        section: dict.fromkeys(str(entry["name"]) for entry in rows) for section, rows in entries.items() if section != "windows"
    }
    names["bridges"] = names["bridges"] or {DEFAULT_BRIDGE: None}
    for section, key, within in (
        ("memories", "hosts", "hosts"),
        ("bridges", "hosts", "hosts"),
        ("networks", "hosts", "hosts"),
        ("windows", "targets", "bridges"),
    ):
        for index, entry in enumerate(entries[section]):
            given = entry[key] or ()
            unknown = [one for one in given if not (isinstance(one, str) and one in names[within])]
            for one in unknown:
                use = f"use one of {shown_names(names[within])}" if names[within] else f"leave {key} out"
                errors.add(f"{section}[{index}].{key}", f"{within[:-1]} {shown(one)} is not in the list of {within}", use)
            entry[key] = tuple(one for one in given if one not in unknown) or None
    parents = {**names["bridges"], **names["switches"]}
    for section, key, known in (
        ("memories", "parent", parents),
        ("switches", "parent", parents),
        ("memories", "pool", names["pools"]),
    ):
        for index, entry in enumerate(entries[section]):
            if entry[key] is not None and entry[key] not in known:
                fix = f"use one of {shown_names(known)}" if known else f"leave {key} out"
                errors.add(f"{section}[{index}].{key}", f"{shown(entry[key])} does not exist", fix)
                entry[key] = None
                if key == "pool":
                    entry["offset"] = None


def shown_names(names: Iterable[str]) -> str:
    """A list of names that stays short with hundreds of hosts."""
    known = list(names)
    return ", ".join(known) if len(known) <= 8 else f"{', '.join(known[:6])} and {len(known) - 6} more"
