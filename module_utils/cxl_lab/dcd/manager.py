# SPDX-License-Identifier: GPL-3.0-or-later
"""The fabric manager at work: claim, offer, wait; ask back, wait, scrub, unclaim.

The order keeps what a crash leaves behind harmless: journal, claim, offer; and released, scrubbed, unclaimed, forgotten. A block
is claimed from before the host can have it until after it has it no more, and the next run goes on from the truth.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Mapping, Sequence

from ..errors import LabError
from ..runner import Runner, must
from ..waiting import poll
from .claims import Claims
from .device import OUTSTANDING_MAX, DcDevice, Geometry, Range, State
from .extents import Act, Outcome, Want, outcome, plan
from .journal import Entry, Journal
from .monitor import Monitor, QmpError


class Manager:
    """Works on the devices of one lab. The caller holds the journal's lock.

    :param monitor: the running QEMU of a host.
    :param claims: of the devices that several hosts have, by the name of the device.
    """

    def __init__(self, journal: Journal, monitor: Callable[[str], Monitor], claims: Mapping[str, Claims], runner: Runner) -> None:
        self.journal = journal
        self._monitor = monitor
        self._claims = claims
        self._runner = runner
        self._geometries: dict[tuple[str, str], Geometry] = {}

    def device(self, host: str, device: str) -> DcDevice:
        return DcDevice(self._monitor(host), device, f"device {device} of {host}")

    def geometry(self, host: str, device: str) -> Geometry:
        key = host, device
        if key not in self._geometries:
            self._geometries[key] = self.device(host, device).geometry()
        return self._geometries[key]

    def state(self, entry: Entry) -> State:
        """What the range of an entry is on the device.

        :raises LabError: when the device has become another one.
        """
        subject = f"extent {entry.tag} of {entry.device} on {entry.host}"
        self.geometry(entry.host, entry.device).check(entry.region, entry.offset, entry.size, subject)
        return self.device(entry.host, entry.device).state(entry.region, (entry.offset, entry.size))

    def plan(self, want: Want) -> Act | None:
        """What there is to do for one extent now."""
        entry = self.journal.entries.get(want.key)
        geometry = self.geometry(want.host, want.device)
        state = self.state(entry) if entry else "free"
        if not entry and not want.present:
            self._check_tag(want)
        if entry or not want.present:
            return plan(want, entry, state, geometry, [])
        want = self._beside_its_twin(want)
        geometry.check(want.region, want.offset or 0, want.size, want.subject)
        return plan(want, None, state, geometry, self._taken(want, geometry))

    def carry_out(self, act: Act, *, timeout: float, sleep: float) -> None:
        """Does the act and waits up to ``timeout`` seconds for the host's answer; 0 does not wait."""
        if act.kind == "offer":
            self._offer(act)
            self._settle(act, lambda state: state != "pending", timeout, sleep)
        elif act.kind == "release":
            self._ask_back(act)
            if self._settle(act, lambda state: state == "free", timeout, sleep) == "free":
                self._finish(act)
        else:
            self._finish(act)

    def describe(self, want: Want) -> dict[str, Any]:
        """The extent as it is now."""
        entry = self.journal.entries.get(want.key)
        row = {"host": want.host, "device": want.device, "tag": want.tag, "region": want.region}
        if entry is None:
            return {**row, "state": "absent"}
        return {**row, **self.view(entry)}

    def view(self, entry: Entry) -> dict[str, Any]:
        """An entry and what the device says of it, with the parts that the host took of an extent that it took in part."""
        state = self.state(entry)
        now: Outcome = outcome(entry, state)
        if state == "accepted" and entry.phase == "offered":
            self.journal.put(replace(entry, phase="accepted"), "accepted")
        row: dict[str, Any] = {
            "host": entry.host,
            "device": entry.device,
            "tag": entry.tag,
            "region": entry.region,
            "offset": entry.offset,
            "size": entry.size,
            "shared": entry.shared,
            "state": now,
        }
        if now == "partly":
            parts = self.device(entry.host, entry.device).accepted(entry.region, (entry.offset, entry.size))
            row["accepted"] = [{"offset": offset, "size": size} for offset, size in parts]
        return row

    def _offer(self, act: Act) -> None:
        entry = replace(act.entry, phase="offered")
        device = self.device(entry.host, entry.device)
        self._check_room(entry)
        known = entry.key in self.journal.entries
        self.journal.put(entry, "about to be offered")
        self._claim(entry, known)
        try:
            device.add(entry.region, [(entry.offset, entry.size)], entry.tag)
        except QmpError as error:
            # QEMU refused, so that nothing was offered. After any other error that is not known: claim and entry stay.
            self._unclaim(entry)
            self.journal.drop(entry, f"not offered: {error.said}")
            raise
        self.journal.put(entry, "offered")

    def _claim(self, entry: Entry, known: bool) -> None:
        if entry.device not in self._claims:
            return
        if known:  # an earlier run may have claimed it and ended there
            self._unclaim(entry)
        try:
            self._claims[entry.device].claim(entry.host, [self._place(entry)], entry.shared)
        except LabError as error:
            self.journal.drop(entry, f"not offered: {error.problem}")
            raise

    def _unclaim(self, entry: Entry) -> None:
        if entry.device in self._claims:
            self._claims[entry.device].release(entry.host, [self._place(entry)])

    def _ask_back(self, act: Act) -> None:
        entry = replace(act.entry, phase="releasing")
        device = self.device(entry.host, entry.device)
        parts = device.accepted(entry.region, (entry.offset, entry.size))
        self.journal.put(entry, "asked back")
        device.release(entry.region, parts, entry.tag)

    def _finish(self, act: Act) -> None:
        """The host has nothing of it any more."""
        entry = act.entry
        if act.want.sanitize and self._is_last(entry):
            self._scrub(entry)
        self._unclaim(entry)
        self.journal.drop(entry, "released and scrubbed" if act.want.sanitize else "released")

    def _settle(self, act: Act, done: Callable[[State], bool], timeout: float, sleep: float) -> State:
        state, _ = poll(lambda: self.state(act.entry), done, timeout=timeout, sleep=sleep)
        if state == "accepted" and act.kind == "offer":
            self.journal.put(replace(act.entry, phase="accepted"), "accepted")
        return state

    def _scrub(self, entry: Entry) -> None:
        """QEMU erases nothing. A hole in the backing file reads as zeros for every host."""
        geometry = self.geometry(entry.host, entry.device)
        offset, size = self._place(entry)
        start = geometry.file_offset + offset
        argv = ["fallocate", "--punch-hole", "--offset", str(start), "--length", str(size), geometry.path]
        must(self._runner, argv, f"backing file {geometry.path}", "the data of the extent is still in it: try again")

    def _is_last(self, entry: Entry) -> bool:
        """Whether no other host has the same bytes."""
        if entry.device not in self._claims:
            return True
        offset, size = self._place(entry)
        rows = self._claims[entry.device].show()["claims"]
        others = [row for row in rows if row["offset"] < offset + size and offset < row["offset"] + row["length"]]
        return all(row["heads"] == [entry.host] for row in others)

    def _place(self, entry: Entry) -> Range:
        """The range in the memory: a claim is for the same bytes on every head."""
        return entry.region * self.geometry(entry.host, entry.device).region_size + entry.offset, entry.size

    def _taken(self, want: Want, geometry: Geometry) -> list[Range]:
        """What a new extent must not touch: extents of ours and of others on the device, and claims of other heads."""
        ours = [(each.offset, each.size) for each in self.journal.of_device(want.host, want.device) if each.region == want.region]
        held = self.device(want.host, want.device).held(want.region, geometry.region_size)
        start = want.region * geometry.region_size
        claimed: Sequence[Mapping[str, Any]] = []
        # With an offset of the user's a conflict is the claim's to tell: it names the head.
        if want.device in self._claims and want.offset is None:
            claimed = self._claims[want.device].show()["claims"]
        within = [(row["offset"] - start, row["length"]) for row in claimed]
        return ours + held + [(max(at, 0), size + min(at, 0)) for at, size in within if -size < at < geometry.region_size]

    def _beside_its_twin(self, want: Want) -> Want:
        """A shared extent lies where another host has the one with the same tag."""
        if not want.shared or want.offset is not None:
            return want
        same = (want.device, want.tag, want.region, want.size, True)
        for entry in self.journal.entries.values():
            if (entry.device, entry.tag, entry.region, entry.size, entry.shared) == same:
                return replace(want, offset=entry.offset)
        return want

    def _check_tag(self, want: Want) -> None:
        """Who names a place to be released means what lies there."""
        if want.offset is None:
            return
        for other in self.journal.of_device(want.host, want.device):
            if other.region == want.region and other.offset <= want.offset < other.offset + other.size:
                raise LabError(want.subject, f"at {want.offset:#x} is the extent {other.tag}", "release it by its own tag")

    def _check_room(self, entry: Entry) -> None:
        waiting = [each for each in self.journal.of_device(entry.host, entry.device) if self.state(each) == "pending"]
        if len(waiting) >= OUTSTANDING_MAX:
            problem = f"{len(waiting)} offers to {entry.host} are pending, and its event log holds no more"
            raise LabError(f"extent {entry.tag} of {entry.device} on {entry.host}", problem, "make its region or its daemon run")
