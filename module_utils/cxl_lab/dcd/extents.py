# SPDX-License-Identifier: GPL-3.0-or-later
"""What is to be offered or released: from what the user wrote, the journal and the devices to acts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Literal, Mapping, Sequence

from ..errors import LabError, shown
from ..names import check_name
from ..sizes import format_size, parse_size
from .device import BLOCK, Geometry, Range, State
from .journal import Entry

#: What became of an extent, from the truth.
Outcome = Literal["absent", "pending", "accepted", "partly", "refused", "released", "lost"]


@dataclass(frozen=True)
class Want:
    """An extent as the user names it: by its tag, which is unique on a device of a host.

    ``offset`` None: the first place where it fits. ``size`` 0: whatever it has (to be released).
    """

    host: str
    device: str
    region: int
    tag: str
    offset: int | None
    size: int
    shared: bool
    sanitize: bool
    present: bool

    @property
    def key(self) -> tuple[str, str, str]:
        return self.host, self.device, self.tag

    @property
    def subject(self) -> str:
        return f"extent {self.tag} of {self.device} on {self.host}"


@dataclass(frozen=True)
class Act:
    """``kind`` "offer" or "release" needs the host's answer; "forget" only clears up what is over."""

    kind: Literal["offer", "release", "forget"]
    want: Want
    entry: Entry

    @property
    def what(self) -> str:
        entry = self.entry
        range_ = f"{format_size(entry.size)} at {entry.offset:#x} of region {entry.region}"
        verb = {"offer": "offer", "release": "ask for", "forget": "clear up after"}[self.kind]
        return f"{verb} extent {entry.tag} of {entry.device} on {entry.host}: {range_}"


def parse_wants(rows: Sequence[Mapping[str, Any]]) -> list[Want]:
    """:raises LabError: for what is no extent, or is named twice."""
    wants: list[Want] = []
    for row in rows:
        host, device, tag = (check_name(row[name], name) for name in ("host", "device", "tag"))
        subject = f"extent {tag} of {device} on {host}"
        present = row.get("state", "present") == "present"
        offset = row.get("offset")
        size = parse_size(row["size"], subject) if row.get("size") is not None else 0
        if present and not size:
            raise LabError(subject, "has no size", 'write for example size: "64M"')
        flags = bool(row.get("shared")), bool(row.get("sanitize"))
        place = None if offset is None else _offset(offset, subject)
        want = Want(host, device, int(row.get("region") or 0), tag, place, size, *flags, present)
        if want.key in {other.key for other in wants}:
            raise LabError(subject, "is named twice", "give each extent a tag of its own")
        wants.append(want)
    return wants


def _offset(value: object, subject: str) -> int:
    return 0 if str(value) == "0" else parse_size(value, f"{subject}: offset")


def outcome(entry: Entry | None, state: State) -> Outcome:
    """What a range that an entry tells of has become."""
    if entry is None:
        return "absent"
    if state == "free":
        return {"offered": "refused", "accepted": "lost", "releasing": "released"}[entry.phase]  # type: ignore[return-value]
    return state


def plan(want: Want, entry: Entry | None, state: State, geometry: Geometry, taken: Iterable[Range]) -> Act | None:
    """The act that brings the extent nearer to what is wanted; None when there is nothing to do or only to wait.

    :param entry: the journal's, if there is one; ``state`` is of its range.
    :param taken: ranges of the region that a new extent must not touch.
    :raises LabError: when the entry is another extent than the wanted one, or when there is no room.
    """
    if entry is not None:
        _check_same(want, entry)
    if want.present:
        if entry is not None:
            return Act("offer", want, entry) if state == "free" else None
        return Act("offer", want, _new_entry(want, geometry, taken))
    if entry is None:
        return None
    if state == "pending":
        raise LabError(
            want.subject, "is still pending: the host has not answered", "make its region (dcd_region) or its daemon run"
        )
    return Act("forget" if state == "free" else "release", want, entry)


def _check_same(want: Want, entry: Entry) -> None:
    differences = []
    if want.size and want.size != entry.size:
        differences.append(f"size {format_size(entry.size)}")
    if want.offset is not None and want.offset != entry.offset:
        differences.append(f"offset {entry.offset:#x}")
    if want.region != entry.region:
        differences.append(f"region {entry.region}")
    if want.present and want.shared != entry.shared:
        differences.append("shared" if entry.shared else "not shared")
    if differences:
        step = "write that, or release it first (state: absent) under its own values"
        raise LabError(want.subject, f"has {', '.join(differences)}, other than asked for", step)


def _new_entry(want: Want, geometry: Geometry, taken: Iterable[Range]) -> Entry:
    geometry.check(want.region, want.offset or 0, want.size, want.subject)
    blocked = sorted(taken)
    offset = first_fit(want.size, geometry.region_size, blocked) if want.offset is None else want.offset
    if offset is None:
        free = geometry.region_size - sum(size for _, size in blocked)
        problem = (
            f"{format_size(want.size)} do not fit in one piece: region {want.region} has {shown(format_size(max(free, 0)))} free"
        )
        raise LabError(want.subject, problem, "release something, or take a smaller one")
    hit = next((each for each in blocked if each[0] < offset + want.size and offset < sum(each)), None)
    if hit:
        problem = f"{offset:#x}+{want.size:#x} overlaps {hit[0]:#x}+{hit[1]:#x}, which is taken"
        raise LabError(want.subject, problem, "choose another offset, or leave it out for the first that fits")
    return Entry(want.host, want.device, want.region, want.tag, offset, want.size, want.shared, "offered")


def first_fit(size: int, room: int, taken: Sequence[Range]) -> int | None:
    """The lowest offset in whole blocks where ``size`` bytes touch none of the taken ranges (sorted)."""
    at = 0
    for offset, length in taken:
        if at + size <= offset:
            return at
        at = max(at, -(-(offset + length) // BLOCK) * BLOCK)
    return at if at + size <= room else None
