# SPDX-License-Identifier: GPL-3.0-or-later
"""One dynamic-capacity device in this host's hands: its region, its extents, its users, and the answers to its events.

What is held is read from the device after each change, never remembered. An event is answered first and cleared then: after a
crash in between it is seen again and found to be done; the other order would leave the request pending and block all later ones.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import Code, DatapathError
from .device import DcdDevice
from .leader import Hop, Leader
from .mailbox import INVALID_ADDRESS, INVALID_EXTENTS, MailboxError
from .payloads import Extent, Range
from .policy import Holdings, Request, Terms, due, give, remembered, requests, take
from .ranges import covers, intersection, overlap, union
from .registers import Function
from .window import Window

ROUNDS = 64  # looks at the log in one service; a device that always has more does not keep others waiting
HISTORY = 256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Traced:
    """What happened, for a person: seconds since the epoch, what, and the ranges."""

    time: float
    what: str
    ranges: tuple[Range, ...]


class DcdHost:
    """Not thread-safe: one owner of the mailbox. Construction takes the device from the kernel's driver.

    `route`: the host addresses that lead to it, device address 0 first; None without a region."""

    def __init__(self, function: Function, hops: Sequence[Hop] = (), leader: Leader | None = None) -> None:
        self._device = DcdDevice(function, hops, leader)
        self.name, self.serial, self.regions = self._device.name, self._device.serial, self._device.regions
        self.terms = Terms()
        self.holdings = Holdings()
        self.route: Range | None = None
        self.history: deque[Traced] = deque(maxlen=HISTORY)
        self.extents: list[Extent] = []
        self._refresh()
        if self.holdings.held:
            self._trace("found", self.holdings.held)

    def make_region(self, window: Window, limit: int | None = None, remember: bool = False) -> bool:
        """Leads the window to the device and accepts from now on; False when the decoder did so already.

        What was offered before there was a region is refused."""
        if not self._device.is_led():
            self.service()
        self.route, made = self._device.lead(window)
        self.terms = Terms(self.regions, limit, remember)
        self._trace("region made", [(0, self._device.span)])
        return made

    def destroy_region(self) -> None:
        """Gives every extent back and frees the decoder. Raises `busy` with the users."""
        if self.holdings.users:
            names = ", ".join(sorted(self.holdings.users))
            raise DatapathError(Code.BUSY, f"region of {self.name}", f"is used by {names}", "unmap them first")
        self.service()
        self.terms = Terms()
        if self.holdings.held:
            self._release(self.holdings.held, "released with the region")
        if self.route is not None:
            self._device.unlead(self.route)
        self.route = None
        self._trace("region destroyed", [])

    def give_back(self) -> None:
        """To the kernel's driver. The region must be gone."""
        self._device.give_back()

    def map(self, name: str, wanted: Range) -> int:
        """Notes a user of a range that is held, and returns its host address. The same again is no change."""
        if self.route is None:
            raise DatapathError(
                Code.NOT_FOUND, f"mapping {name}", f"{self.name} has no region", "make it: cxl-datapath dcd create"
            )
        if not covers(self.holdings.held, wanted):
            hint = "see: cxl-datapath dcd extents"
            raise DatapathError(Code.RANGE, f"mapping {name}", f"{_text(wanted)} is not all accepted", hint)
        if self.holdings.users.get(name, wanted) != wanted:
            what = f"is there with {_text(self.holdings.users[name])}"
            raise DatapathError(Code.EXISTS, f"mapping {name}", what, "choose another name, or unmap that one first")
        if not self._device.is_reached(self.route):
            what = f"the window does not lead to {self.name} any more: somebody else has programmed a decoder on the way"
            raise DatapathError(Code.FAILED, f"mapping {name}", what, "destroy the region, and make it again")
        if name not in self.holdings.users:
            self.holdings.users[name] = wanted
            self._trace(f"mapped by {name}", [wanted])
        return self.route[0] + wanted[0]

    def adopt_user(self, name: str, wanted: Range) -> None:
        """A user from before a restart of the daemon, whatever became of its extents meanwhile."""
        self.holdings.users[name] = wanted

    def unmap(self, name: str) -> None:
        """The user lets go; what was asked back meanwhile goes back now."""
        if name not in self.holdings.users:
            known = ", ".join(sorted(self.holdings.users)) or "none"
            raise DatapathError(Code.NOT_FOUND, f"mapping {name}", f"is not there (there are: {known})")
        self._trace(f"unmapped by {name}", [self.holdings.users.pop(name)])
        self._give_what_is_due()

    def service(self) -> int:
        """Answers everything in the event log; how many requests that were."""
        done = 0
        for _ in range(ROUNDS):
            if not self._device.has_events():
                break
            lost, events = self._device.events()
            if lost:
                self._trace(f"{lost} events were lost", [])
            if not events:
                break
            for request in requests(events):
                self._answer(request)
                done += 1
            self._device.clear(events)
        return done

    def _answer(self, request: Request) -> None:
        try:
            if request.kind == "add":
                self._answer_offer(request)
            elif request.kind == "release":
                self._answer_release(request.ranges)
            elif request.kind == "forced":
                self._trace("taken by force", request.ranges)
                self._refresh()
            else:
                self._trace("an event of another kind", request.ranges)
        except MailboxError as error:
            if error.code_returned not in (INVALID_ADDRESS, INVALID_EXTENTS):
                raise
            # Answered before, by us before a crash, or withdrawn: there is nothing left but to clear it.
            self._trace(f"stale {request.kind}", request.ranges)
            self._refresh()

    def _answer_offer(self, request: Request) -> None:
        offered = request.ranges
        taken = [] if request.fault else take(self.terms, self.holdings, offered)
        if not taken:
            self._refuse(offered, request.fault)
            return
        self._device.accept(taken)
        self._refresh()
        self._trace("accepted" if union(taken) == union(offered) else "accepted in part", taken)

    def _refuse(self, offered: Sequence[Range], why: str) -> None:
        """An empty answer would say it, and ends QEMU when nothing is pending. A block taken and given back says the same."""
        first, length = offered[0]
        region = next((r for r in self.regions if r.base <= first < r.base + r.length), None)
        if region is None or length < region.block:
            self._trace("cannot be answered", offered)
            return
        block = [(first, region.block)]
        if not overlap(block, self.holdings.held):
            self._device.accept(block)
        elif not self._is_half_refused(offered, block):
            self._trace("answered before", offered)
            return
        self._device.release(block)
        self._refresh()
        why = why if self.terms.regions else "no region"
        self._trace(f"refused: {why}" if why else "refused", offered)

    def _is_half_refused(self, offered: Sequence[Range], block: list[Range]) -> bool:
        """Whether a daemon before this one ended between the two halves of a refusal."""
        used = overlap(block, self.holdings.users.values())
        alone = intersection(offered, self.holdings.held) == block
        return alone and not used and (not self.terms.regions or union(offered) != block)

    def _answer_release(self, asked: Sequence[Range]) -> None:
        given, kept = give(self.holdings, asked, self.terms.remember)
        if given:
            self._release(given, "released")
        else:
            self._trace("release ignored", asked)
        self.holdings.asked = remembered(self.holdings, kept)

    def _give_what_is_due(self) -> None:
        if given := due(self.holdings):
            self._release(given, "released, as asked before")
            self.holdings.asked = remembered(self.holdings, [])

    def _release(self, given: Sequence[Range], what: str) -> None:
        self._device.release(given)
        self._refresh()
        self._trace(what, given)

    def _refresh(self) -> None:
        self.extents = self._device.extents()
        self.holdings.held = union(extent.range for extent in self.extents)

    def _trace(self, what: str, ranges: Sequence[Range]) -> None:
        self.history.append(Traced(time.time(), what, tuple(ranges)))
        log.info("dynamic capacity of %s: %s %s", self.name, what, " ".join(map(_text, ranges)))

    def _state(self) -> str:
        if self.route is None:
            return "no region"
        try:
            return "running" if self._device.is_reached(self.route) else "cut off"
        except DatapathError:
            return "unknown"

    def view(self) -> dict[str, Any]:
        """The device for `dcd.region.list`."""
        return {
            "serial": self.serial,
            "function": self.name,
            "state": self._state(),
            "base": self.route[0] if self.route else None,
            "size": sum(region.length for region in self.regions),
            "regions": len(self.regions),
            "block": self.regions[0].block,
            "available": sum(length for _, length in self.holdings.held),
            "limit": self.terms.limit,
            "mappings": sorted(self.holdings.users),
        }


def _text(range_: Range) -> str:
    return f"{range_[0]:#x}+{range_[1]:#x}"
