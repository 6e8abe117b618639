# SPDX-License-Identifier: GPL-3.0-or-later
"""All dynamic-capacity devices of this host, and their desired state."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import Code, DatapathError
from ..memory import PAGE, Kind, Memory
from . import kernel
from .above import Access, RealAccess, find_above
from .config import serial_number
from .desired import DesiredFile, DeviceState
from .host import DcdHost
from .keeper import Keeper, NotReady
from .leader import Leader
from .payloads import Range
from .ranges import covers
from .reach import Reach, directly, open_devdax, through_window
from .registers import cxl_functions
from .window import choose, firmware

Row = dict[str, Any]

log = logging.getLogger(__name__)


class DcdManager:
    """Every method may wait for a device: call it in a thread. The caller makes sure that one mutates at a time."""

    def __init__(self, state: Path, sysfs: Path, dev: Path = Path("/dev"), access: Access | None = None) -> None:
        self._file = DesiredFile(state)
        self._sysfs, self._dev = sysfs, dev
        self._access = access or RealAccess(sysfs, dev)
        self._leader = Leader(lambda: kernel.regions(sysfs))
        self._keepers: dict[int, Keeper] = {}

    def start(self) -> None:
        """Takes up what was wanted, in the background. Raises when that is damaged."""
        for desired in self._file.load():
            self._keepers[desired.serial] = Keeper(desired, self._attach)
            self._keepers[desired.serial].start_later()

    def stop(self) -> None:
        for keeper in self._keepers.values():
            keeper.stop()

    def create(self, wanted: DeviceState) -> Row:
        """Takes a device from the kernel's driver and makes its region. The same again is no change."""
        serial = wanted.serial
        if found := self._keepers.get(serial):
            have = found.desired
            if replace(have, mappings={}) != wanted:
                what = f"is there with window {have.window}, limit {have.limit}, remember {have.remember}, direct {have.direct}"
                raise DatapathError(Code.EXISTS, f"region of {serial:#x}", what, "destroy it first")
            return self._row(found)
        keeper = Keeper(wanted, self._attach)
        keeper.start()
        self._keepers[serial] = keeper
        try:
            self._save()
        except DatapathError:
            self._end(keeper)
            raise
        return self._row(keeper)

    def destroy(self, serial: int) -> Row:
        """Gives extents, decoder and device back. Raises `busy` with the users."""
        keeper = self._keeper(serial)
        row = self._row(keeper) | {"state": "destroyed", "available": 0}
        with keeper.host() as host:
            host.destroy_region()
        self._end(keeper)
        self._save()
        return row

    def map(self, serial: int, name: str, wanted: Range) -> Row:
        keeper = self._keeper(serial)
        with keeper.host() as host:
            new = name not in host.holdings.users
            host.map(name, wanted)
            if new and host.route is not None:
                try:
                    self._reach(keeper.desired, host.route, wanted)
                except DatapathError:
                    host.unmap(name)
                    raise
            keeper.desired.mappings[name] = wanted
            try:
                self._save()
            except DatapathError:
                if new:
                    host.unmap(name)
                    del keeper.desired.mappings[name]
                raise
        return self.mapping(serial, name)

    def mapping(self, serial: int, name: str) -> Row:
        """Where the range of a mapping is: file, offset and size."""
        keeper = self._keeper(serial)
        with keeper.host() as host:
            if name not in host.holdings.users or host.route is None:
                raise DatapathError(Code.NOT_FOUND, f"mapping {name}", "is not there", "make it: cxl-datapath dcd map")
            return self._placed(keeper.desired, host.route, name, host.holdings.users[name])

    def mappings(self) -> list[Row]:
        """Every mapping of every device that is there; one whose file cannot be had has a reason in place of file and offset."""
        rows: list[Row] = []
        for keeper in list(self._keepers.values()):
            with contextlib.suppress(NotReady), keeper.host() as host:
                users = sorted(host.holdings.users.items())
                rows += [self._seen(keeper.desired, host.route, *user) for user in users if host.route is not None]
        return rows

    def _seen(self, desired: DeviceState, route: Range, name: str, wanted: Range) -> Row:
        try:
            return self._placed(desired, route, name, wanted)
        except DatapathError as error:
            return _mapping_row(desired.serial, name, wanted) | {"reason": error.to_json()}

    def memory(self, serial: int, name: str) -> Memory:
        """A mapping as a memory for transports. Raises `not_ready` while not all of it is accepted, `invalid` off whole pages."""
        row = self.mapping(serial, name)
        wanted = (row["dpa"], row["size"])
        with self._keeper(serial).host() as host:
            if not covers(host.holdings.held, wanted):
                hint = "offer its extents again, or unmap it"
                raise DatapathError(Code.NOT_READY, f"mapping {name}", "is not all accepted any more", hint)
        if wanted[0] % PAGE or wanted[1] % PAGE:
            raise DatapathError(Code.INVALID, f"mapping {name}", f"is not whole pages of {PAGE} bytes", "map whole blocks of 2M")
        kind: Kind = "window" if row["path"] == str(self._dev / "mem") else "devdax"
        return Memory(f"dcd:{serial:#x}/{name}", row["path"], row["size"], kind, row["offset"])

    def _placed(self, desired: DeviceState, route: Range, name: str, wanted: Range) -> Row:
        reach = self._reach(desired, route, wanted)
        return _mapping_row(desired.serial, name, wanted) | {"path": str(reach.path), "offset": reach.offset}

    def _reach(self, desired: DeviceState, route: Range, wanted: Range) -> Reach:
        if desired.direct is not None:
            return directly(desired.direct, wanted, self._sysfs, self._dev)
        return through_window(route[0], wanted, self._sysfs, self._dev)

    def unmap(self, serial: int, name: str) -> Row:
        keeper = self._keeper(serial)
        with keeper.host() as host:
            host.unmap(name)
            keeper.desired.mappings.pop(name, None)
            self._save()
        return {"serial": serial, "name": name, "state": "unmapped"}

    def regions(self) -> list[Row]:
        return [self._row(keeper) for keeper in list(self._keepers.values())]

    def extents(self) -> list[Row]:
        """Everything that is held, with its users and whether it was asked back."""
        rows: list[Row] = []
        for serial, keeper in list(self._keepers.items()):
            with contextlib.suppress(NotReady), keeper.host() as host:
                rows += [_extent_row(serial, extent.range, host) for extent in host.extents]
        return rows

    def events(self) -> list[Row]:
        """What happened last, as a time line."""
        rows: list[Row] = []
        for serial, keeper in list(self._keepers.items()):
            with contextlib.suppress(NotReady), keeper.host() as host:
                past = list(host.history)
                rows += [{"time": each.time, "serial": serial, "what": each.what, "ranges": _shown(each.ranges)} for each in past]
        return sorted(rows, key=lambda row: row["time"])

    def _attach(self, desired: DeviceState) -> DcdHost:
        name = f"device {desired.serial:#x}"
        if generation := kernel.probe(self._sysfs):
            what = f"this kernel has dynamic capacity of its own (names of {generation.series})"
            raise DatapathError(Code.UNSUPPORTED, name, what, "use cxl and daxctl there")
        matches = [each for each in cxl_functions(self._sysfs) if serial_number(each.config()) == desired.serial]
        if len(matches) != 1:
            what = f"is {'not there' if not matches else 'there several times'}"
            raise DatapathError(Code.NOT_FOUND, name, what, "compare the serial number with the topology")
        function = matches[0]
        if used := kernel.decoders_in_use(self._sysfs, function.name):
            hint = "destroy it first: cxl destroy-region"
            raise DatapathError(Code.BUSY, name, f"the kernel has a region over it ({', '.join(used)})", hint)
        found = firmware(self._sysfs)
        above = find_above(self._sysfs, function.name, found, self._access)
        window = choose(found.windows, desired.window, above.bridge)
        open_devdax((window.base, window.size), self._sysfs)
        self._leader.check(above.hops)
        was_bound = function.driver() is not None
        if was_bound and above.shared is not None:
            kernel.check_settled(self._sysfs, above.shared, function.name)
        try:
            host = DcdHost(function, above.hops, self._leader)
            host.make_region(window, desired.limit, desired.remember)
            return host
        except DatapathError:
            # Nothing was programmed. One that was ours before stays: the kernel might take its decoder for a region of its own.
            if was_bound:
                function.give_back()
            raise

    def _end(self, keeper: Keeper) -> None:
        """The thread first: nobody answers events of a device that goes."""
        keeper.stop()
        del self._keepers[keeper.desired.serial]
        try:
            with keeper.host() as host:
                if host.route is not None:
                    host.destroy_region()
                host.give_back()
        except DatapathError as error:
            log.error("device %#x: not given back to the kernel: %s", keeper.desired.serial, error)

    def _keeper(self, serial: int) -> Keeper:
        if serial not in self._keepers:
            known = ", ".join(f"{each:#x}" for each in self._keepers) or "none"
            hint = "make it: cxl-datapath dcd create"
            raise DatapathError(Code.NOT_FOUND, f"device {serial:#x}", f"has no region here (those that have: {known})", hint)
        return self._keepers[serial]

    def _row(self, keeper: Keeper) -> Row:
        desired = keeper.desired
        path = "device" if desired.direct is None else "direct"
        row: Row = {
            "serial": desired.serial,
            "remember": desired.remember,
            "data_path": path,
            "direct_serial": desired.direct,
            "reason": None,
        }
        try:
            with keeper.host() as host:
                return host.view() | row
        except NotReady as error:
            return row | {"state": "pending", "reason": (keeper.reason or error).to_json()}

    def _save(self) -> None:
        self._file.save([keeper.desired for keeper in list(self._keepers.values())])


def _mapping_row(serial: int, name: str, wanted: Range) -> Row:
    return {"serial": serial, "name": name, "dpa": wanted[0], "size": wanted[1], "path": None, "offset": None, "reason": None}


def _extent_row(serial: int, extent: Range, host: DcdHost) -> Row:
    first, end = extent[0], sum(extent)
    users = [name for name, used in sorted(host.holdings.users.items()) if used[0] < end and first < sum(used)]
    asked = any(each[0] < end and first < sum(each) for each in host.holdings.asked)
    return {"serial": serial, "dpa": first, "size": extent[1], "mappings": users, "asked_back": asked}


def _shown(ranges: Sequence[Range]) -> list[str]:
    return [f"{first:#x}+{length:#x}" for first, length in ranges]
