# SPDX-License-Identifier: GPL-3.0-or-later
"""A dynamic-capacity device of a running QEMU: what it has, what it offers, what its host holds.

QEMU has no command that asks for the state of a range. It judges the extents of a request in order and does nothing unless all
are good: so a request with the range first and an impossible extent behind it says what the range is, without any effect.
Its plain ``{}`` means no more than that the host was told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Mapping, Sequence

from ..errors import LabError
from .monitor import Monitor, QmpError

#: Of every region that QEMU 10 and 11 make; it cannot be set.
BLOCK = 2 << 20
#: QEMU keeps the state of this many, and starts with more.
REGIONS_MAX = 8
#: Records of the event log; the host never hears of a request that finds it full.
OUTSTANDING_MAX = 8

Range = tuple[int, int]  # offset in the region, length; bytes
State = Literal["free", "pending", "accepted", "partly"]
_IMPOSSIBLE = {"offset": 0, "len": 0}


@dataclass(frozen=True)
class Geometry:
    """``regions`` equal regions of ``region_size`` bytes over the backing file ``path``, from ``file_offset`` on."""

    serial: int
    regions: int
    region_size: int
    path: str
    file_offset: int

    def check(self, region: int, offset: int, size: int, subject: str) -> None:
        """:raises LabError: when there is no such range of whole blocks."""
        if not 0 <= region < self.regions:
            raise LabError(subject, f"the device has no region {region}", f"it has 0 to {self.regions - 1}")
        if size <= 0 or offset < 0 or offset % BLOCK or size % BLOCK:
            raise LabError(subject, f"{offset:#x}+{size:#x} is not aligned to blocks of 2 MiB", "give offset and size as n x 2M")
        if offset + size > self.region_size:
            raise LabError(subject, f"{offset:#x}+{size:#x} is beyond the region", f"it has {self.region_size:#x} bytes")


class DcDevice:
    """One device. :param name: as in the topology; QEMU's id of it is ``cxl-dev.<name>``."""

    def __init__(self, monitor: Monitor, name: str, subject: str) -> None:
        self._monitor = monitor
        self._subject = subject
        self.path = f"/machine/peripheral/cxl-dev.{name}"

    def geometry(self) -> Geometry:
        """:raises LabError: when there is no such device, or when it has no dynamic capacity."""
        regions = self._property(self.path, "num-dc-regions")
        backend = self._property(self.path, "volatile-dc-memdev")
        if not isinstance(regions, int) or not regions or not isinstance(backend, str) or not backend:
            raise LabError(self._subject, "is no device with dynamic capacity", "give it dynamic capacity in the topology")
        if regions > REGIONS_MAX:
            raise LabError(
                self._subject, f"has {regions} regions, QEMU keeps track of {REGIONS_MAX}", "make it fewer, larger ones"
            )
        size, path = self._property(backend, "size"), self._property(backend, "mem-path")
        serial, start = self._property(self.path, "sn"), self._property(backend, "offset")
        return Geometry(int(serial), regions, int(size) // regions, str(path), int(start))

    def add(self, region: int, extents: Sequence[Range], tag: str) -> None:
        """Offers the extents to the host, as one request. On return they are pending, no more."""
        self._check_some(extents)
        self._monitor.execute("cxl-add-dynamic-capacity", self._request(region, extents, "selection-policy", tag))

    def release(self, region: int, extents: Sequence[Range], tag: str) -> None:
        """Asks the host to give the extents back. It may ignore that, and QEMU does not remember it."""
        self._check_some(extents)
        self._monitor.execute("cxl-release-dynamic-capacity", self._request(region, extents, "removal-policy", tag))

    def state(self, region: int, extent: Range) -> State:
        """What the whole range is now."""
        found = self._judge_add(region, extent)
        if found != "accepted":
            return found
        return "accepted" if self._is_all_accepted(region, extent) else "partly"

    def held(self, region: int, size: int) -> list[Range]:
        """Everything in the region that is accepted or pending, as few ranges as there are."""
        return _joined(self._search(region, (0, size)))

    def accepted(self, region: int, extent: Range) -> list[Range]:
        """The parts of a range that the host holds, when nothing in it is pending."""
        return _joined(self._search(region, extent))

    def _search(self, region: int, extent: Range) -> list[Range]:
        offset, size = extent
        if self._judge_add(region, extent) == "free":
            return []
        if size == BLOCK or self._is_all_accepted(region, extent):
            return [extent]
        half = size // BLOCK // 2 * BLOCK
        return self._search(region, (offset, half)) + self._search(region, (offset + half, size - half))

    def _judge_add(self, region: int, extent: Range) -> Literal["free", "pending", "accepted"]:
        request = self._request(region, [extent], "selection-policy", "")
        said = self._refusal("cxl-add-dynamic-capacity", request)
        if "0 length" in said.said:
            return "free"
        if "already accessible" in said.said:
            return "accepted"
        if "still pending" in said.said:
            return "pending"
        raise said

    def _is_all_accepted(self, region: int, extent: Range) -> bool:
        said = self._refusal("cxl-release-dynamic-capacity", self._request(region, [extent], "removal-policy", ""))
        if "0 length" in said.said:
            return True
        if "non-existing" in said.said or "with pending" in said.said:
            return False
        raise said

    def _refusal(self, command: str, request: dict[str, Any]) -> QmpError:
        request["extents"].append(_IMPOSSIBLE)
        try:
            self._monitor.execute(command, request)
        except QmpError as error:
            return error
        raise LabError(self._subject, "QEMU took an extent without a length", "this QEMU is not known: use 10.0 to 11.1")

    def _request(self, region: int, extents: Sequence[Range], policy: str, tag: str) -> dict[str, Any]:
        ranges: list[Mapping[str, int]] = [{"offset": offset, "len": size} for offset, size in extents]
        common = {"path": self.path, "host-id": 0, policy: "prescriptive", "region": region}
        return {**common, **({"tag": tag} if tag else {}), "extents": ranges}

    def _check_some(self, extents: Sequence[Range]) -> None:
        # QEMU does nothing then and answers as if it had.
        if not extents:
            raise LabError(self._subject, "a request without extents", "name at least one")

    def _property(self, path: str, name: str) -> Any:
        try:
            return self._monitor.execute("qom-get", {"path": path, "property": name})
        except QmpError as error:
            step = "name a device of this host with dynamic capacity, as in the topology"
            raise LabError(self._subject, f"QEMU does not know it: {error.said}", step) from error


def _joined(ranges: list[Range]) -> list[Range]:
    joined: list[Range] = []
    for offset, size in ranges:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((offset, size))
    return joined
