# SPDX-License-Identifier: GPL-3.0-or-later
"""A ublk device whose queues run in this process, in the threads of the core."""

from __future__ import annotations

from pathlib import Path

from ..core import IdleConf, Ublk, UblkConf
from .base import FrontEnd, Target, missing_module
from .names import check_free, publish, withdraw


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
        check_free(self._link)
        t = self._target
        channels = [t.transport.channel_conf(channel, epoch) for channel, epoch in zip(t.channels, t.epochs, strict=True)]
        conf = UblkConf(-1, len(channels), t.capacity, t.block_size, t.read_only, t.discard, t.write_zeroes, IdleConf(0, 0))
        self._ublk = Ublk(t.transport.mapping.mem, channels, conf)
        self._device = t.dev / f"ublkb{self._ublk.dev_id()}"
        try:
            publish(self._link, self._device)
        except BaseException:
            self._ublk.stop(t.name)
            raise
        return str(self._link)

    def check(self) -> None:
        """The threads are in this process: they end with it."""

    def stop(self) -> None:
        if self._ublk is not None:
            self._ublk.stop(f"blkdev {self._target.name}")
            withdraw(self._link, self._device)
            self._ublk = None

    def abort(self) -> None:
        """The kernel fails the device's requests when this process ends; only the name is taken back here."""
        withdraw(self._link, self._device)
