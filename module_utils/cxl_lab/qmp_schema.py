# SPDX-License-Identifier: GPL-3.0-or-later
"""Which arguments a command of this very QEMU takes. Source: the answer to ``query-qmp-schema`` (QEMU, qapi/introspect.json).

QEMU changes the arguments of its CXL commands between releases (11.1 made "sub-type" mandatory), and its own message for a wrong
one names a single argument. Hence they are checked before, all at once.
"""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .errors import LabError, shown

#: QEMU's names of its builtin types, and what they are in Python.
_PYTHON: Mapping[str, Any] = {"int": int, "string": str, "boolean": bool, "number": (int, float)}


class QmpSchema:
    """The rows of ``query-qmp-schema`` by their names."""

    def __init__(self, rows: object) -> None:
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
            raise LabError("QEMU", "answered query-qmp-schema with something else", "use QEMU 9 or later")
        self._rows: dict[str, Mapping[str, Any]] = {row["name"]: row for row in rows}

    def has(self, command: str) -> bool:
        return self._rows.get(command, {}).get("meta-type") == "command"

    def takes(self, command: str) -> dict[str, bool]:
        """The arguments of a command; True for those that must be given.

        :raises LabError: for a command that this QEMU does not have.
        """
        return {member["name"]: "default" not in member for member in self._members(self._argument_type(command))}

    def describe(self, command: str) -> dict[str, dict[str, Any]]:
        """The arguments of a command for a person: ``required``, ``type`` and the ``choices`` of an enumeration."""
        told = {}
        for member in self._members(self._argument_type(command)):
            row = self._rows[member["type"]]
            choices = {"choices": list(row["values"])} if row["meta-type"] == "enum" else {}
            kind = "string" if choices else row.get("json-type", row["meta-type"])
            told[member["name"]] = {"required": "default" not in member, "type": kind, **choices}
        return told

    def problems(self, command: str, arguments: Mapping[str, Any]) -> list[str]:
        """What is wrong with these arguments, none when QEMU would take them."""
        return self._object(self._argument_type(command), arguments, "")

    def _argument_type(self, command: str) -> str:
        if not self.has(command):
            raise LabError("QEMU", f"has no command {command}", "use a QEMU that has: 11.1 has all of them")
        return str(self._rows[command]["arg-type"])

    def _members(self, kind: str) -> Sequence[Mapping[str, Any]]:
        members: Sequence[Mapping[str, Any]] = self._rows[kind].get("members", [])
        return members

    def _object(self, kind: str, value: object, path: str) -> list[str]:
        if not isinstance(value, Mapping):
            return [f"{path.rstrip('.') or 'arguments'} is {shown(value)}, and no mapping"]
        members = {member["name"]: member for member in self._members(kind)}
        found = [f"{path}{key} is unknown, use {', '.join(members)}" for key in value if key not in members]
        for name, member in members.items():
            if name in value:
                found += self._value(member["type"], value[name], f"{path}{name}")
            elif "default" not in member:
                found.append(f"{path}{name} is missing")
        return found

    def _value(self, kind: str, value: object, path: str) -> list[str]:
        row = self._rows[kind]
        if row["meta-type"] == "object":
            return self._object(kind, value, f"{path}.")
        if row["meta-type"] == "array":
            if not isinstance(value, list):
                return [f"{path} is {shown(value)}, and no list"]
            parts = [self._value(row["element-type"], part, f"{path}[{index}]") for index, part in enumerate(value)]
            return [problem for part in parts for problem in part]
        if row["meta-type"] == "enum":
            return [] if value in row["values"] else [f"{path} is {shown(value)}, use one of {', '.join(row['values'])}"]
        wanted = _PYTHON.get(str(row.get("json-type")))
        # A bool is an int in Python, and none in JSON.
        if wanted and (not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)):
            return [f"{path} is {shown(value)}, and no {row['json-type']}"]
        return []
