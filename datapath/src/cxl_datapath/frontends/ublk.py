# SPDX-License-Identifier: GPL-3.0-or-later
"""A ublk device whose queues run in this process, in the threads of the core.

The kernel keeps a device whose server died, and lets its users wait. The stable name still points at it then, so that the next
worker of the same blkdev takes it over: the kernel sends again what was in flight, and a mounted file system goes on.
"""

from __future__ import annotations

from pathlib import Path

from ..core import ChannelConf, Ublk, UblkConf
from ..idle import idle_conf
from .base import FrontEnd, Target, check_unused, missing_module
from .names import check_free, publish, ublk_number, withdraw


class UblkFrontEnd(FrontEnd):
    @staticmethod
    def missing() -> str:
        return missing_module("ublk_drv", Path("/dev/ublk-control"))

    def __init__(self, target: Target) -> None:
        self._target = target
        self._link = target.dev / target.name
        self._ublk: Ublk | None = None
        self._device = Path()

    def start(self) -> str:
        t = self._target
        number = ublk_number(self._link)
        if number is None:
            check_free(self._link)
        conf = UblkConf(
            -1 if number is None else number,
            len(t.queues),
            t.capacity,
            t.block_size,
            t.read_only,
            t.discard,
            t.write_zeroes,
            t.physical_block_size,
            t.discard_granularity,
            idle_conf(),
        )
        self._ublk = Ublk(t.mapping.mem, list(t.queues), conf)
        self._device = t.dev / f"ublkb{self._ublk.dev_id()}"
        try:
            publish(self._link, self._device)
        except BaseException:
            self._ublk.stop(t.name)
            raise
        return str(self._link)

    def kept(self) -> bool:
        return ublk_number(self._link) is not None

    def rebind(self, channels: list[ChannelConf]) -> None:
        if self._ublk is not None:
            self._ublk.rebind(channels)

    def set_offline(self, error: int) -> None:
        if self._ublk is not None:
            self._ublk.set_offline(error)

    def progress(self) -> list[tuple[int, int]]:
        return [(each.submitted, each.requests) for each in self._ublk.stats()] if self._ublk else []

    def check(self) -> None:
        """The threads are in this process: they end with it."""

    def stop(self) -> None:
        if self._ublk is not None:
            name = f"blkdev {self._target.name}"
            check_unused(self._device, name)
            self._ublk.stop(name)
            withdraw(self._link, self._device)
            self._ublk = None

    def abort(self) -> None:
        """Leaves the device to the kernel: its users wait for the next start."""
