# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's regions over dynamic capacity: what to ask its daemon for. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from ..cxl_list import parse_serial
from ..errors import LabError
from ..sizes import parse_size

Row = dict[str, Any]
_SETTINGS = ("limit", "remember", "direct_serial")


@dataclass(frozen=True)
class RegionWant:
    """``window`` None: the only one that leads to the device's host bridge alone. ``limit`` in bytes, None for none. ``direct``:
    serial number of the memdev through which the data goes, None for the device itself."""

    serial: int
    window: int | None
    limit: int | None
    remember: bool
    direct: int | None

    @property
    def subject(self) -> str:
        return f"region over device {self.serial:#x}"


@dataclass(frozen=True)
class Call:
    """A method to call on the daemon, and what it does for the user."""

    what: str
    method: str
    params: Row


def parse_wants(rows: Sequence[Mapping[str, Any]]) -> list[RegionWant]:
    """:raises LabError: for what is no region, or is named twice."""
    wants: list[RegionWant] = []
    for row in rows:
        serial = parse_serial(row["serial"])
        limit = None if row.get("limit") is None else parse_size(row["limit"], f"limit of {serial:#x}")
        want = RegionWant(serial, row.get("window"), limit, bool(row.get("remember")), _direct(row, serial))
        if want.serial in {other.serial for other in wants}:
            raise LabError(want.subject, "is named twice", "remove one of the entries")
        wants.append(want)
    return wants


def _direct(row: Mapping[str, Any], serial: int) -> int | None:
    wanted, through = row.get("data_path", "device") == "direct", row.get("direct_serial")
    if wanted != (through is not None):
        problem = "data_path direct goes through another memdev" if wanted else "direct_serial is for data_path direct"
        step = "name it in direct_serial" if wanted else "write data_path: direct, or leave it out"
        raise LabError(f"region over device {serial:#x}", problem, step)
    return None if through is None else parse_serial(through)


def find(wants: Sequence[RegionWant], answer: object) -> dict[int, Row]:
    """The rows of the wanted regions, by serial number and in their order.

    :raises LabError: when the daemon's answer is no list of regions.
    """
    if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
        raise LabError("cxl-datapathd", "its list of regions is none", "bring daemon and collection to versions that fit")
    rows = {row.get("serial"): row for row in answer}
    return {want.serial: rows[want.serial] for want in wants if want.serial in rows}


def plan(wants: Sequence[RegionWant], have: Mapping[int, Row], *, present: bool) -> list[Call]:
    """The calls that make the regions, or take them away.

    :raises LabError: for one that is there with other settings.
    """
    calls = []
    for want in wants:
        row = have.get(want.serial)
        if present and row is not None:
            _check_same(want, row)
        elif present:
            params = {
                "serial": want.serial,
                "window": want.window,
                "limit": want.limit,
                "remember": want.remember,
                "direct": want.direct,
            }
            calls.append(Call(f"make a {want.subject}", "dcd.region.create", params))
        elif row is not None:
            calls.append(Call(f"destroy the {want.subject}", "dcd.region.destroy", {"serial": want.serial}))
    return calls


def _check_same(want: RegionWant, row: Row) -> None:
    # One that waits for its device shows no settings yet.
    wanted = {"limit": want.limit, "remember": want.remember, "direct_serial": want.direct}
    different = [name for name in _SETTINGS if name in row and row[name] != wanted[name]]
    if different:
        name = different[0]
        raise LabError(
            want.subject, f"has {name} {row[name]}, not {wanted[name]}", "destroy it first (state: absent)", observed=row
        )
