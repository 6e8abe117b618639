# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes a ublk device that the kernel kept while its worker was away, whatever became of its backend and its transport.

Such a device goes only through a server that takes it over, with channels that answer. So this process makes channels in memory
of its own and serves them as a backend that fails every request: whoever still waits for the device gets an I/O error, which is
the truth, and no byte of any medium is touched.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..cbd.geometry import channel_size
from ..core import Backend, BackendConf, ChannelConf, IdleConf, Ublk, UblkConf
from ..errors import Code, DatapathError
from ..frontends.base import check_unused
from ..frontends.names import withdraw
from ..mapping import Mapping
from ..memory import Memory
from .link import Command, Link

_SECTOR = 512


@dataclass(frozen=True)
class Shape:
    """What a server must agree with to take a device over, as the kernel shows it."""

    capacity: int  # bytes
    block_size: int  # bytes
    slot_bytes: int
    queues: int
    ring_depth: int


def read_shape(number: int, block: Path = Path("/sys/block")) -> Shape:
    """Raises `not_found` when there is no such device."""
    disk = block / f"ublkb{number}"
    try:
        return Shape(
            capacity=int((disk / "size").read_text()) * _SECTOR,
            block_size=int((disk / "queue/logical_block_size").read_text()),
            slot_bytes=int((disk / "queue/max_hw_sectors_kb").read_text()) * 1024,
            queues=len(list((disk / "mq").iterdir())),
            ring_depth=int((disk / "mq/0/nr_tags").read_text()),
        )
    except (OSError, ValueError) as error:
        raise DatapathError(Code.NOT_FOUND, f"/dev/ublkb{number}", f"is not a ublk device of ours ({error})") from None


def run(link: Link) -> None:
    """Ready when the device is gone. Raises `busy`, and changes nothing, while it is in use.

    A patient one is ready when every request fails; it removes the device once nobody uses it any more.
    """
    raw = link.config()
    number, name, dev, patient = int(raw["device"]), str(raw["name"]), Path(raw["dev"]), bool(raw["patient"])
    device = dev / f"ublkb{number}"
    if not patient:
        check_unused(device, f"blkdev {name}")
    shape = read_shape(number)
    with _failing_channels(shape) as (mapping, channels):
        conf = UblkConf(number, shape.queues, shape.capacity, shape.block_size, 0, 0, 0, shape.block_size, 0, IdleConf(0, 0))
        ublk = Ublk(mapping.mem, channels, conf)
        if patient:
            link.emit("ready", info={"device": str(device)})
            if not _wait_unused(link, device, name):
                return  # the device stays, as the daemon found it
        ublk.stop(f"blkdev {name}")
    withdraw(dev / name, device)
    if not patient:
        link.emit("ready", info={})
    while link.wait(1.0) in (None, Command.STOP):
        pass


def _wait_unused(link: Link, device: Path, name: str) -> bool:
    """False when the daemon ends first."""
    while link.wait(1.0) in (None, Command.STOP):
        try:
            check_unused(device, f"blkdev {name}")
            return True
        except DatapathError:
            continue
    return False


@contextmanager
def _failing_channels(shape: Shape) -> Iterator[tuple[Mapping, list[ChannelConf]]]:
    one = channel_size(shape.ring_depth, shape.slot_bytes)
    scratch = os.memfd_create("cxl-datapath-remove")
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # reads of it fail, and the backend is read-only
    os.ftruncate(scratch, one * shape.queues)
    mapping = Mapping(Memory("scratch memory", f"/proc/self/fd/{scratch}", one * shape.queues, "file"))
    engine = Backend(mapping.mem, BackendConf(nothing, 0, 1, shape.block_size, shape.capacity, idle=IdleConf(0, 0)))
    channels = [ChannelConf(index * one, shape.ring_depth, shape.slot_bytes, 1, 0) for index in range(shape.queues)]
    try:
        for channel in channels:
            engine.add(channel)
        yield mapping, channels
    finally:
        engine.close()
        os.close(nothing)
