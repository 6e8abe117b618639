# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the areas of a transport are: planned from options and a memory size, or read from its info and checked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import Code, DatapathError

ENDIAN = 0x0102030405060708
ENTRY_PAGE = 4096
INFO_AREA = 8192
SLOT = 64
PAGE = 4096
CHANNEL_RINGS = 4096  # offset of the submission ring in a channel

ENTRIES_MAX = 1024  # hosts, backends, blkdevs: each; bounds what a reader of hostile info walks over
CHANNELS_MAX = 4096
CHANNELS_DEFAULT_MAX = 64
RING_DEPTHS = tuple(1 << power for power in range(1, 11))
SLOT_BYTES_MAX = 1 << 20
SIZE_MAX = 1 << 56


def _pages(length: int) -> int:
    return -(-length // PAGE) * PAGE


def channel_size(ring_depth: int, slot_bytes: int) -> int:
    """Bytes of a channel: control and statistics, two rings, request data, response data."""
    return CHANNEL_RINGS + 2 * _pages(ring_depth * SLOT) + 2 * ring_depth * slot_bytes


def rings_end(ring_depth: int) -> int:
    """Offset in a channel of the first byte behind its control lines and rings."""
    return CHANNEL_RINGS + 2 * _pages(ring_depth * SLOT)


@dataclass(frozen=True)
class Geometry:
    """Counts, sizes and offsets of the info, in its order."""

    host_count: int
    backend_count: int
    blkdev_count: int
    channel_count: int
    ring_depth: int
    slot_bytes: int
    total_size: int
    hosts_off: int
    backends_off: int
    blkdevs_off: int
    channels_off: int
    channel_size: int

    def channel_off(self, index: int) -> int:
        return self.channels_off + index * self.channel_size

    def check(self) -> None:
        """Raises `corrupt` unless every area lies in order, aligned, and inside `total_size`."""
        for what, count, limit in (
            ("hosts", self.host_count, ENTRIES_MAX),
            ("backends", self.backend_count, ENTRIES_MAX),
            ("blkdevs", self.blkdev_count, ENTRIES_MAX),
            ("channels", self.channel_count, CHANNELS_MAX),
        ):
            _need(1 <= count <= limit, f"{count} {what} are not possible (1 to {limit})")
        _need(self.ring_depth in RING_DEPTHS, f"ring depth {self.ring_depth} is not a power of two from 2 to 1024")
        _need(
            self.slot_bytes % PAGE == 0 and PAGE <= self.slot_bytes <= SLOT_BYTES_MAX,
            f"{self.slot_bytes} bytes per slot are not possible",
        )
        _need(
            self.channel_size == channel_size(self.ring_depth, self.slot_bytes),
            f"a channel of {self.channel_size} bytes is not possible",
        )
        _need(self.total_size <= SIZE_MAX, f"{self.total_size} bytes are not possible")
        end = INFO_AREA
        for what, offset, length in (
            ("hosts", self.hosts_off, self.host_count * ENTRY_PAGE),
            ("backends", self.backends_off, self.backend_count * ENTRY_PAGE),
            ("blkdevs", self.blkdevs_off, self.blkdev_count * ENTRY_PAGE),
            ("channels", self.channels_off, self.channel_count * self.channel_size),
        ):
            _need(offset % PAGE == 0 and offset >= end, f"the {what} area at {offset:#x} is misplaced")
            end = offset + length
        _need(end <= self.total_size, f"the areas end at {end}, behind the transport's {self.total_size} bytes")


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise DatapathError(Code.CORRUPT, "transport info", why)


@dataclass(frozen=True)
class FormatOptions:
    """What a user may choose when a transport is made. `channels` None: as many as fit, at most 64."""

    hosts: int = 16
    backends: int = 16
    blkdevs: int = 16
    channels: int | None = None
    ring_depth: int = 64
    slot_bytes: int = 65536


def plan(options: FormatOptions, size: int) -> Geometry:
    """The geometry of a transport of `size` bytes; raises `invalid` or `range` that names the option and the bytes needed."""
    _check_options(options)
    one = channel_size(options.ring_depth, options.slot_bytes)
    backends_off = INFO_AREA + options.hosts * ENTRY_PAGE
    blkdevs_off = backends_off + options.backends * ENTRY_PAGE
    channels_off = blkdevs_off + options.blkdevs * ENTRY_PAGE
    fit = max(0, size - channels_off) // one
    channels = min(fit, CHANNELS_DEFAULT_MAX) if options.channels is None else options.channels
    if channels == 0 or channels > fit:
        wanted = max(1, channels)
        raise DatapathError(
            Code.RANGE,
            "transport",
            f"{wanted} channel(s) of {one} bytes need {channels_off + wanted * one} bytes, the memory has {size}",
            _what_fits(options, size, channels_off, fit),
        )
    counts = (options.hosts, options.backends, options.blkdevs, channels, options.ring_depth, options.slot_bytes)
    return Geometry(*counts, size, INFO_AREA, backends_off, blkdevs_off, channels_off, one)


def _what_fits(options: FormatOptions, size: int, channels_off: int, fit: int) -> str:
    """What to choose instead, in numbers."""
    if fit:
        return f"choose at most {fit} channel(s), a smaller ring_depth or slot_bytes, or a larger memory"
    room = size - channels_off
    depths = [depth for depth in RING_DEPTHS if depth <= options.ring_depth]
    slots = [PAGE << power for power in range(9) if PAGE << power <= options.slot_bytes]
    if pairs := [
        (channel_size(depth, slot), slot, depth) for depth in depths for slot in slots if channel_size(depth, slot) <= room
    ]:
        _, slot, depth = max(pairs)
        return f"choose for example ring_depth {depth} with slot_bytes {slot}, which is one channel, or a larger memory"
    least = channel_size(RING_DEPTHS[0], PAGE)
    if (smallest := INFO_AREA + 3 * ENTRY_PAGE + least) <= size:
        few = f"at most {(size - INFO_AREA - least) // ENTRY_PAGE} hosts, backends and blkdevs together"
        return f"choose {few} and a small ring_depth and slot_bytes, or a larger memory"
    return f"it is too small whatever is chosen: the smallest transport takes {smallest} bytes"


def _check_options(options: FormatOptions) -> None:
    limits = [(name, getattr(options, name), ENTRIES_MAX) for name in ("hosts", "backends", "blkdevs")]
    if options.channels is not None:
        limits.append(("channels", options.channels, CHANNELS_MAX))
    for name, value, limit in limits:
        if not 1 <= value <= limit:
            raise DatapathError(Code.INVALID, name, f"{value} is not possible", f"choose 1 to {limit}")
    if options.ring_depth not in RING_DEPTHS:
        raise DatapathError(
            Code.INVALID, "ring_depth", f"{options.ring_depth} is not possible", "choose a power of two from 2 to 1024"
        )
    if options.slot_bytes % PAGE or not PAGE <= options.slot_bytes <= SLOT_BYTES_MAX:
        hint = f"choose a multiple of {PAGE} up to {SLOT_BYTES_MAX}"
        raise DatapathError(Code.INVALID, "slot_bytes", f"{options.slot_bytes} is not possible", hint)
