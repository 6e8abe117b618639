# SPDX-License-Identifier: GPL-3.0-or-later
"""A dynamic-capacity device, taken from the kernel's driver: its commands and its decoder, without any policy."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Code, DatapathError
from . import payloads
from .config import BLOCK_COMPONENT, BLOCK_DEVICE, enable_memory, locate, serial_number, set_mem_enable
from .decoder import Decoders
from .leader import Hop, Leader
from .mailbox import Mailbox
from .payloads import LOG, DcRegion, Event, Extent, Range
from .registers import Function
from .window import Window


class DcdDevice:
    """Not thread-safe: one owner of the mailbox. Raises `unsupported` for a function that has no dynamic capacity.

    `hops`: what has decoders between the window and the device; `leader` programs them, for all devices."""

    def __init__(self, function: Function, hops: Sequence[Hop] = (), leader: Leader | None = None) -> None:
        self.name = function.name
        self._function, self._hops, self._leader = function, hops, leader or Leader()
        function.take()
        enable_memory(function)
        config = function.config()
        self.serial = serial_number(config)
        places = locate(config, self.name)
        device, component = places[BLOCK_DEVICE], places[BLOCK_COMPONENT]
        self._mailbox = Mailbox(function.bar(device.bar), device, self.name)
        self._decoders = Decoders(function.bar(component.bar), component.offset, self.name)
        if not payloads.parse_dc_log_size(self._mailbox.call(payloads.IDENTIFY)):
            raise DatapathError(Code.UNSUPPORTED, self.name, "has no dynamic capacity", "name a device that has")
        self.regions: list[DcRegion] = payloads.parse_config(self._mailbox.call(payloads.GET_CONFIG, payloads.config_request()))
        if not self.regions:
            raise DatapathError(Code.UNSUPPORTED, self.name, "has no dynamic capacity region", "name a device that has")

    @property
    def span(self) -> int:
        """Bytes of device addresses that its regions take."""
        return max(region.base + region.decoded for region in self.regions)

    def is_led(self) -> bool:
        """Whether a window leads to it."""
        return any(decoder.committed for decoder in self._decoders.all())

    def lead(self, window: Window) -> tuple[Range, bool]:
        """Leads a part of the window to the device: the host addresses, and False when they led there already."""
        route, made = self._leader.lead(self._hops, self._decoders, self.span, (window.base, window.size))
        try:
            set_mem_enable(self._function, True)
        except DatapathError:
            self._leader.unlead(self._hops, self._decoders, route)
            raise
        return route, made

    def is_reached(self, route: Range) -> bool:
        """Whether these addresses still lead to it."""
        return self._leader.is_intact(self._hops, self._decoders, route)

    def unlead(self, route: Range) -> None:
        self._leader.unlead(self._hops, self._decoders, route)
        set_mem_enable(self._function, False)

    def give_back(self) -> None:
        """To the kernel's driver. Every decoder must be free: the kernel would take it for one of its own."""
        if self.is_led():
            raise DatapathError(Code.BUSY, self.name, "has a region", "destroy it first: cxl-datapath dcd destroy")
        self._function.give_back()

    def has_events(self) -> bool:
        """Costs one load."""
        return bool(self._mailbox.events() >> LOG & 1)

    def events(self) -> tuple[int, list[Event]]:
        """How many were lost, and those that are in the log; they stay there until they are cleared."""
        return payloads.parse_events(self._mailbox.call(payloads.GET_EVENTS, payloads.events_request()))

    def clear(self, events: Sequence[Event]) -> None:
        """`events`: the oldest ones, in order."""
        self._mailbox.call(payloads.CLEAR_EVENTS, payloads.clear_request([event.handle for event in events]))

    def accept(self, ranges: Sequence[Range]) -> None:
        """Answers the oldest offer with these parts of it; never with none."""
        self._mailbox.call(payloads.ADD_RESPONSE, payloads.extent_list(ranges))

    def release(self, ranges: Sequence[Range]) -> None:
        self._mailbox.call(payloads.RELEASE, payloads.extent_list(ranges))

    def extents(self) -> list[Extent]:
        """Everything that is accepted."""
        found: list[Extent] = []
        while True:
            answer = self._mailbox.call(payloads.GET_EXTENTS, payloads.extents_request(len(found)))
            total, part = payloads.parse_extents(answer, len(found))
            found += part
            if not part or len(found) >= total:
                return found
