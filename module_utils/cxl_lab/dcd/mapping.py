# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's mappings of accepted extents: what to ask its daemon for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from ..cxl_list import parse_serial
from ..errors import LabError
from ..names import check_name
from ..sizes import parse_size
from .device import BLOCK
from .region import Call

Row = dict[str, Any]


@dataclass(frozen=True)
class MappingWant:
    """``size`` bytes from device address ``dpa`` on, under a name that is unique on the device."""

    serial: int
    name: str
    dpa: int
    size: int

    @property
    def key(self) -> tuple[int, str]:
        return self.serial, self.name

    @property
    def subject(self) -> str:
        return f"mapping {self.name} of device {self.serial:#x}"


def parse_wants(rows: Sequence[Mapping[str, Any]]) -> list[MappingWant]:
    """:raises LabError: for what is no mapping, or is named twice."""
    wants: list[MappingWant] = []
    for row in rows:
        serial, name = parse_serial(row["serial"]), check_name(row["name"], "name")
        subject = f"mapping {name} of device {serial:#x}"
        dpa = 0 if str(row["offset"]) == "0" else parse_size(row["offset"], f"{subject}: offset")
        want = MappingWant(serial, name, dpa, parse_size(row["size"], subject))
        if dpa % BLOCK or want.size % BLOCK:
            raise LabError(subject, "is not aligned to blocks of 2 MiB", "give offset and size as n x 2M")
        if want.key in {other.key for other in wants}:
            raise LabError(subject, "is named twice", "give each mapping a name of its own")
        wants.append(want)
    return wants


def find(wants: Sequence[MappingWant], answer: object) -> dict[tuple[int, str], Row]:
    """The rows of the wanted mappings, in their order.

    :raises LabError: when the daemon's answer is no list of mappings.
    """
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise LabError("cxl-datapathd", "its list of mappings is none", "bring daemon and collection to versions that fit")
    rows = {(row.get("serial"), row.get("name")): row for row in answer}
    return {want.key: rows[want.key] for want in wants if want.key in rows}


def plan(wants: Sequence[MappingWant], have: Mapping[tuple[int, str], Row], *, present: bool) -> list[Call]:
    """The calls that make the mappings, or take them away.

    :raises LabError: for one that is there with another range.
    """
    calls = []
    for want in wants:
        row = have.get(want.key)
        if present and row is None:
            params = {"serial": want.serial, "name": want.name, "dpa": want.dpa, "size": want.size}
            calls.append(Call(f"make {want.subject}: {want.dpa:#x}+{want.size:#x}", "dcd.mapping.create", params))
        elif present and row is not None and (row.get("dpa"), row.get("size")) != (want.dpa, want.size):
            problem = f"has {row.get('dpa')}+{row.get('size')}, other than asked for"
            raise LabError(want.subject, problem, "remove it first (state: absent), or choose another name", observed=row)
        elif not present and row is not None:
            calls.append(Call(f"remove {want.subject}", "dcd.mapping.remove", {"serial": want.serial, "name": want.name}))
    return calls
