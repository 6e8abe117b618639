# SPDX-License-Identifier: GPL-3.0-or-later
"""A transport: probed, formatted, attached."""

from __future__ import annotations

import uuid as uuidlib
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import Code, DatapathError
from ..mapping import Bytes
from . import geometry
from .geometry import ENTRY_PAGE, INFO_AREA, FormatOptions
from .layout import COHERENCES, FEATURE_DATA_CRC, LEASE_MS_DEFAULT, LEASE_MS_MAX, LEASE_MS_MIN, Info
from .metadata import CopyPair
from .signatures import foreign

INFO_COPY = 4096
_ZERO_CHUNK = 1 << 20
_DAMAGED_HINT = 'it is lost, format it with force once nobody uses it: docs/cbd.md, "A transport that was lost"'


@dataclass(frozen=True)
class Probe:
    """What a memory holds. `formatted`: a transport, readable or not (`problem` says why not, `info` is None then).

    `foreign`: no transport, but something that a user may miss (`signatures.foreign`); `problem` says what.
    """

    formatted: bool
    foreign: bool
    info: Info | None
    problem: str


def info_pair(memory: Bytes) -> CopyPair:
    return CopyPair(memory, 0, INFO_COPY, Info.MAGIC, "transport info", hint=_DAMAGED_HINT)


def probe(memory: Bytes) -> Probe:
    """Looks and changes nothing."""
    if memory.size < INFO_AREA:
        return _without_transport(memory)
    try:
        info = read_info(memory)
    except DatapathError as error:
        carries = error.code != Code.CORRUPT or _has_valid_copy(memory)
        return Probe(True, False, None, error.message) if carries else _without_transport(memory)
    return Probe(True, False, info, "") if info else _without_transport(memory)


def _without_transport(memory: Bytes) -> Probe:
    content = foreign(memory)
    return Probe(False, bool(content), None, content)


def _has_valid_copy(memory: Bytes) -> bool:
    try:
        return info_pair(memory).newest() is not None
    except DatapathError:
        return False


def read_info(memory: Bytes) -> Info | None:
    """The checked info; None on a memory that carries none."""
    payload = info_pair(memory).read()
    if payload is None:
        return None
    info = Info.unpack(payload)
    if info.geometry.total_size > memory.size:
        raise DatapathError(
            Code.RANGE,
            f"transport {info.name}",
            f"it was formatted for {info.geometry.total_size} bytes, this memory has {memory.size}",
            "map the whole memory on every host, or format again",
        )
    return info


def attach(memory: Bytes, name: str) -> Info:
    """The info of a transport that is there; `name` is what to call the memory in errors."""
    if memory.size < INFO_AREA:
        raise DatapathError(Code.INVALID, name, f"{memory.size} bytes cannot hold a transport")
    info = read_info(memory)
    if info is None:
        raise DatapathError(Code.NOT_FOUND, name, "holds no transport", "format it first: cxl-datapath cbd transport format")
    return info


@dataclass(frozen=True)
class FormatPlan:
    """Everything that a format will write; made without writing."""

    info: Info
    zero: list[tuple[int, int]]  # offset, length


def plan_format(
    size: int, name: str, options: FormatOptions, coherence: str, data_crc: bool, *, lease_ms: int = LEASE_MS_DEFAULT
) -> FormatPlan:
    """Raises `invalid` or `range` that names the option."""
    if not LEASE_MS_MIN <= lease_ms <= LEASE_MS_MAX:
        hint = f"choose {LEASE_MS_MIN} to {LEASE_MS_MAX}"
        raise DatapathError(Code.INVALID, "lease_ms", f"{lease_ms} is not possible", hint)
    areas = geometry.plan(options, size)
    features = FEATURE_DATA_CRC if data_crc else 0
    info = Info(uuidlib.uuid4(), name, features, COHERENCES.index(coherence), areas, lease_ms)
    # Slots of an earlier life could carry a valid epoch and sequence: rings are cleared, payload need not be.
    rings = geometry.rings_end(areas.ring_depth)
    zero = [(0, areas.blkdevs_off + areas.blkdev_count * ENTRY_PAGE)]
    zero += [(areas.channel_off(index), rings) for index in range(areas.channel_count)]
    return FormatPlan(info, zero)


def in_use(name: str, hosts: list[str]) -> DatapathError:
    """Why a transport is not formatted again."""
    hint = "stop what they have in it, unregister it on each of them, then format with force"
    return DatapathError(Code.BUSY, f"transport {name}", f"in use by the live host(s) {', '.join(hosts)}", hint)


def check_may_format(memory: Bytes, name: str, force: bool, alive: Callable[[], list[str]]) -> None:
    """Raises unless the memory may be formatted. `alive()` names the hosts whose heartbeat moves; it may take seconds."""
    found = probe(memory)
    # Live hosts first: force does not help against them, so it must not be the first thing to be proposed.
    if hosts := alive():
        raise in_use(found.info.name if found.info else name, hosts)
    if not force:
        if found.formatted:
            what = f"carries the transport {found.info.name}" if found.info else f"carries a transport ({found.problem})"
            raise DatapathError(Code.EXISTS, name, what, "use force to destroy it")
        if found.foreign:
            raise DatapathError(Code.EXISTS, name, f"carries {found.problem}", "use force to destroy it")


def withdraw_info(memory: Bytes, check_unused: Callable[[], None]) -> None:
    """Clears the info, so that nobody registers any more.

    `check_unused` raises when somebody came since it was decided to format; what was there is whole again then. It is asked when
    the old info is gone: a host that registers looks at the info after it wrote its entry, so that one of the two sees the other.
    """
    before = memory.read(0, INFO_AREA)
    memory.write(0, bytes(INFO_AREA))
    try:
        check_unused()
    except DatapathError:
        memory.write(0, before)
        raise


def write_format(memory: Bytes, plan: FormatPlan, check_unused: Callable[[], None] = lambda: None) -> None:
    """Clears, then writes the info last, so that a format that is cut short leaves no transport."""
    withdraw_info(memory, check_unused)
    for offset, length in plan.zero:
        for start in range(offset, offset + length, _ZERO_CHUNK):
            memory.write(start, bytes(min(_ZERO_CHUNK, offset + length - start)))
    info_pair(memory).write(plan.info.pack())
