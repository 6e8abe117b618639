# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is in the shared memory: every reader gives what the format allows, or the documented error. The CRCs are right here,
for who writes nonsense on purpose computes them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from ram import Ram
from strategies import EDGES

from cxl_datapath.cbd import channels
from cxl_datapath.cbd.fencing import fenced_epoch, is_fenced
from cxl_datapath.cbd.geometry import CHANNELS_MAX, ENTRIES_MAX, FormatOptions
from cxl_datapath.cbd.hosting import plan_places
from cxl_datapath.cbd.layout import BackendEntry, BlkdevEntry, HostEntry, Info, State
from cxl_datapath.cbd.lines import Bell, Claim, ControlLine, Fence, Heartbeat, Intent
from cxl_datapath.cbd.metadata import HEADER, seal
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import INFO_COPY, attach, plan_format, probe, write_format
from cxl_datapath.core import crc32c
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.names import NAME_MAX, PATH_MAX

SIZE = 1 << 18
OPTIONS = FormatOptions(hosts=3, backends=2, blkdevs=3, channels=4, ring_depth=2, slot_bytes=4096)
REFUSALS = (Code.CORRUPT, Code.UNSUPPORTED, Code.RANGE)
U32, U64 = 1 << 32, 1 << 64


def formatted() -> tuple[Ram, Registry]:
    ram = Ram(SIZE)
    write_format(ram, plan_format(SIZE, "pool0", OPTIONS, "software", True))
    return ram, Registry(ram, attach(ram, "memory"))


GOOD = {
    Info: attach(formatted()[0], "memory").pack(),
    HostEntry: HostEntry(State.RUNNING, 1, 4, "node1", bytes(16)).pack(),
    BackendEntry: BackendEntry(State.RUNNING, 1, 7, 0, 0, 512, 1 << 20, "/dev/sdb", 4096, 4096, 4, 7).pack(),
    BlkdevEntry: BlkdevEntry(State.RUNNING, 1, 3, 1, 1, 7, 0, (0, 1), (9, 9), 4).pack(),
}
words = st.sampled_from([word % U64 for word in EDGES]) | st.integers(0, U64 - 1)


@st.composite
def payloads(draw: st.DrawFn, kind: type) -> bytes:
    """A right payload with words of 4 or 8 bytes or single bytes changed, seldom of another length."""
    raw = bytearray(GOOD[kind])
    for _ in range(draw(st.integers(0, 6))):
        size = draw(st.sampled_from([1, 4, 4, 8]))
        place = draw(st.integers(0, len(raw) // size - 1)) * size
        raw[place : place + size] = (draw(words) % (1 << 8 * size)).to_bytes(size, "little")
    length = draw(st.sampled_from([len(raw)] * 8 + [0, 1, len(raw) - 1, len(raw) + 1]))
    return bytes(raw[:length]).ljust(length, b"\1")


def in_range(record: Any) -> None:
    """What docs/cbd-format.md says of each field."""
    if isinstance(record, Info):
        g = record.geometry
        assert all(1 <= count <= ENTRIES_MAX for count in (g.host_count, g.backend_count, g.blkdev_count))
        assert 1 <= g.channel_count <= CHANNELS_MAX
        assert g.ring_depth in [1 << power for power in range(1, 11)]
        assert 4096 <= g.slot_bytes <= 1 << 20
        assert g.slot_bytes % 4096 == 0
        assert 1000 <= record.lease_ms <= 600_000
        assert record.features in (0, 1)
        assert record.coherence in (0, 1)
        areas = [(0, 8192), (g.hosts_off, g.host_count * 4096), (g.backends_off, g.backend_count * 4096)]
        areas += [(g.blkdevs_off, g.blkdev_count * 4096), (g.channels_off, g.channel_count * g.channel_size), (g.total_size, 0)]
        assert all(one + length <= other for (one, length), (other, _) in pairwise(areas))
        assert 1 <= len(record.name) <= NAME_MAX
        return
    assert record.state in tuple(State)
    assert all(0 <= number < U32 for number in (record.id, record.epoch))
    if isinstance(record, HostEntry):
        assert 1 <= len(record.name.encode()) <= NAME_MAX
        assert len(record.boot_id) == 16
    elif isinstance(record, BackendEntry):
        assert record.flags in range(8)
        assert record.logical_block_size in (512, 4096)
        assert 0 < record.capacity < 1 << 63
        assert record.capacity % record.logical_block_size == 0
        assert record.physical_block_size in [1 << power for power in range(9, 17)]
        assert record.physical_block_size >= record.logical_block_size
        assert record.discard_granularity % record.logical_block_size == 0
        assert record.path.startswith("/")
        assert len(record.path.encode()) <= PATH_MAX
        assert record.path.isprintable()
    else:
        assert record.flags in range(4)
        assert 1 <= record.queues <= 16
        assert len(record.channel_epochs) == record.queues == len(set(record.channels))


def attempt(call: Callable[[], Any]) -> Any:
    """The result; None where it is refused as documented."""
    try:
        return call()
    except DatapathError as error:
        assert error.code in REFUSALS, error
        assert error.object
        return None


@given(st.data(), st.sampled_from(list(GOOD)))
def test_a_payload_is_in_range_or_refused(data: st.DataObject, kind: type) -> None:
    record = attempt(lambda: kind.unpack(data.draw(payloads(kind))))  # type: ignore[attr-defined]
    if record is not None:
        in_range(record)


headers = st.builds(
    lambda magic, seq, length, version, reserved: HEADER.pack(magic, 0, seq, length, version, reserved),
    st.sampled_from([b"CXTI", b"CXHO", b"CXBA", b"CXBL", b"\0\0\0\0"]),
    words,
    st.sampled_from([0, 1, 96, 168, 176, 304, 992, 993, 1024, 4064, U32 - 1]),
    st.sampled_from([0, 1, 2, 2, 2, 3, U32 - 1]),
    words,
)


@given(st.lists(st.tuples(headers, payloads(Info)), min_size=1, max_size=2))
def test_any_info_is_attached_in_range_or_refused(copies: list[tuple[bytes, bytes]]) -> None:
    ram = Ram(SIZE)
    for place, (header, payload) in enumerate(copies):
        body = (header + payload).ljust(INFO_COPY, b"\0")[:INFO_COPY]
        ram.write(place * INFO_COPY, body[:4] + struct.pack("<I", crc32c(body)) + body[8:])
    found = probe(ram)
    assert found.formatted or not found.info
    try:
        info = attach(ram, "memory")
    except DatapathError as error:
        assert error.code in (*REFUSALS, Code.NOT_FOUND)
    else:
        in_range(info)
        assert info.geometry.total_size <= SIZE


counter_lines = st.builds(
    lambda counter, number: (body := struct.pack("<QI", counter, number % U32)) + struct.pack("<I", crc32c(body)) + bytes(48),
    words,
    words,
)
control_lines = st.builds(
    lambda numbers, magic: (
        (body := struct.pack("<4s7I28s", magic, *(number % U32 for number in numbers), b"")) + struct.pack("<I", crc32c(body))
    ),
    st.tuples(st.sampled_from([0, 1, 1, 1, 2, 3]), *[words] * 6),
    st.sampled_from([b"CXCH", b"CXCH", b"CXCX"]),
)


@given(counter_lines | control_lines | st.binary(max_size=80))
def test_a_line_is_in_range_or_none(raw: bytes) -> None:
    for kind in (Heartbeat, Bell, Fence, Claim, Intent):
        line = kind.unpack(raw)
        assert line is None or all(0 <= number < U64 for number in vars(line).values())
    control = ControlLine.unpack(raw)
    assert control is None or (control.state in tuple(State) and all(0 <= number < U32 for number in vars(control).values()))


@st.composite
def memories(draw: st.DrawFn) -> tuple[Ram, Registry]:
    """A transport full of entries and lines by somebody who knows the format and does not keep to it."""
    ram, registry = formatted()
    for table in (registry.hosts, registry.backends, registry.blkdevs):
        for number in range(table.count):
            raw = bytearray(draw(payloads(table.kind)))
            if len(raw) >= 8 and draw(st.booleans()):
                raw[4:8] = number.to_bytes(4, "little")
            seq, version = draw(words) or 1, draw(st.sampled_from([2] * 8 + [3]))
            if len(raw) <= ENTRY_COPY - HEADER.size:
                ram.write(table.page(number), seal(table.kind.MAGIC, seq, bytes(raw), ENTRY_COPY, version))
    for number in range(registry.hosts.count):
        for offset in (2048, 2112, 2176, 3072, 3136):
            ram.write(registry.hosts.page(number) + offset, draw(counter_lines))
    g = registry.info.geometry
    for number in range(g.channel_count):
        for offset in (0, 2048):
            ram.write(g.channel_off(number) + offset, draw(control_lines))
    return ram, registry


@given(memories(), st.sampled_from(["node1", "node2"]))
def test_every_reader_of_a_registry_ends_as_documented(made: tuple[Ram, Registry], name: str) -> None:
    _, registry = made
    count = registry.info.geometry.channel_count
    for table in (registry.hosts, registry.backends, registry.blkdevs):
        for number, entry in enumerate(table.all()):
            if isinstance(entry, DatapathError):
                assert entry.code in REFUSALS
            elif entry is not None:
                in_range(entry)
                assert entry.id == number
            assert 1 <= table.next_epoch(number) < U32  # type: ignore[attr-defined]
        try:
            assert 0 <= table.allocate() < table.count  # type: ignore[attr-defined]
        except DatapathError as error:
            assert error.code == Code.FULL
    for host in range(registry.hosts.count):
        registry.incarnation(host), registry.heartbeat(host), registry.bell(host), registry.claim(host), registry.intent(host)
        assert 0 <= fenced_epoch(registry, host, sleep=lambda _: None) < U64
        assert registry.host_name(host)
    try:
        for place in plan_places(registry.hosts.all(), lambda host: fenced_epoch(registry, host, lambda _: None), name):
            assert 1 <= place.epoch < U32
    except DatapathError as error:
        assert error.code == Code.FULL
    for channel in range(count):
        assert 1 <= registry.next_channel_epoch(channel) < U32
    blkdevs = registry.blkdevs.used()
    for backend in registry.backends.used().values():
        users = channels.users_of(backend, blkdevs.values(), (), lambda host, epoch: is_fenced(registry, host, epoch))
        for handler in channels.wanted_handlers(backend, users, registry.lines, count):
            assert 0 <= handler.channel < count
            assert 0 <= handler.queue < 16


@given(
    st.binary(max_size=ENTRY_COPY) | st.integers(0, U32).map(lambda n: n.to_bytes(8, "little") * 200), st.integers(0, SIZE - 1)
)
@example(b"", 0)
def test_bytes_anywhere_cost_an_error_at_most(raw: bytes, place: int) -> None:
    ram, registry = formatted()
    ram.data[place : place + len(raw)] = raw[: SIZE - place]
    attempt(lambda: attach(ram, "memory")) if place >= 8192 else probe(ram)
    for table in (registry.hosts, registry.backends, registry.blkdevs):
        table.used()
