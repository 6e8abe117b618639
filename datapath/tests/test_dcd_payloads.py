# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads of dynamic capacity: what a device may send, what it must not, and the small pure parts around them."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxl_datapath.dcd import kernel, payloads, ranges
from cxl_datapath.dcd.config import capabilities, locate, serial_number
from cxl_datapath.dcd.policy import requests
from cxl_datapath.dcd.window import Bridge, choose, parse_cedt
from cxl_datapath.errors import DatapathError

PARSERS = [
    payloads.parse_config,
    lambda raw: payloads.parse_extents(raw, 0),
    payloads.parse_events,
    payloads.parse_dc_log_size,
    parse_cedt,
    lambda raw: parse_cedt(raw).component(0, "host bridge"),
    lambda raw: choose(parse_cedt(raw).windows, None, 0),
]
numbers = st.integers(0, (1 << 64) - 1) | st.sampled_from([0, 1, 1 << 21, 1 << 28, (1 << 64) - 1])


@pytest.mark.parametrize("parser", PARSERS)
@given(
    raw=st.binary(max_size=2048) | st.lists(numbers, max_size=64).map(lambda words: b"".join(struct.pack("<Q", w) for w in words))
)
def test_any_bytes_are_read_or_refused(parser, raw):
    try:
        parser(raw)
    except DatapathError as error:
        assert error.hint


@given(st.binary(max_size=4096))
def test_any_configuration_space_ends(raw):
    list(capabilities(raw))
    serial_number(raw)
    with contextlib.suppress(DatapathError):
        locate(raw, "0000:41:00.0")


def test_a_list_of_capabilities_in_a_circle_ends():
    raw = bytearray(4096)
    struct.pack_into("<I", raw, 0x100, 0x200 << 20 | 0x23)
    struct.pack_into("<I", raw, 0x200, 0x100 << 20 | 0x23)
    assert len(list(capabilities(bytes(raw)))) == 2


def test_regions_that_cannot_be():
    def config(*rows):
        return bytes([8, len(rows)]) + bytes(6) + b"".join(struct.pack("<4QIB3x", *row, 0, 0) for row in rows)

    good = (0, 2, 512 << 20, 2 << 20)
    assert payloads.parse_config(config(good))[0] == payloads.DcRegion(0, 512 << 20, 512 << 20, 2 << 20)
    for bad in [
        (0, 2, 513 << 20, 2 << 20),
        (0, 2, 512 << 20, 0),
        (0, 2, 512 << 20, 3 << 20),
        (1, 2, 512 << 20, 2 << 20),
        (0, 1 << 60, 1 << 30, 2 << 20),
        (0, 0, 0, 2 << 20),
    ]:
        with pytest.raises(DatapathError, match="cannot be"):
            payloads.parse_config(config(bad))
    with pytest.raises(DatapathError, match="cannot be"):
        payloads.parse_config(config(good, good))
    with pytest.raises(DatapathError, match="9 regions"):
        payloads.parse_config(bytes([9, 9]) + bytes(500))


def test_pending_extents_are_not_taken_for_accepted_ones():
    raw = struct.pack("<4I", 3, 1, 0, 0) + struct.pack("<QQ16sH6x", 0x1000, 0x2000, b"t" * 16, 7) + bytes(0x50)
    assert payloads.parse_extents(raw, 0) == (1, [payloads.Extent(0x1000, 0x2000, b"t" * 16, 7)])
    assert payloads.parse_extents(raw, 1) == (1, [])


def test_an_empty_answer_is_never_made():
    with pytest.raises(DatapathError, match="is empty"):
        payloads.extent_list([])
    assert payloads.extent_list([(1, 2)]) == struct.pack("<IB3xQQ8x", 1, 0, 1, 2)


def test_chains_of_events():
    def event(handle, kind="add", more=False):
        return payloads.Event(handle, kind, more, payloads.Extent(handle, 1, bytes(16), 0))

    chained = requests(
        [event(1, more=True), event(2), event(3, "release"), event(4, more=True), event(5, "release"), event(6, more=True)]
    )
    assert [(each.kind, [r[0] for r in each.ranges]) for each in chained] == [
        ("add", [1, 2]),
        ("release", [3]),
        ("add", [4]),
        ("release", [5]),
        ("add", [6]),
    ]


sets = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=6)


def points(given_ranges):
    return {at for first, length in given_ranges for at in range(first, first + length)}


@given(sets, sets)
def test_sets_of_bytes(one, other):
    assert points(ranges.union(one)) == points(one)
    assert points(ranges.intersection(one, other)) == points(one) & points(other)
    assert points(ranges.difference(one, other)) == points(one) - points(other)
    assert ranges.overlap(one, other) == bool(points(one) & points(other))
    assert all(a + length < b for (a, length), (b, _) in zip(ranges.union(one), ranges.union(one)[1:], strict=False))
    for each in other:
        assert ranges.covers(one, each) == (points([each]) <= points(one))


def cedt(*entries, bridges=()):
    """A table with windows (base, size, encoded ways, identifiers of their bridges) and bridges (UID, version, base, size)."""
    body = b"".join(struct.pack("<BxHIIIQQ", 0, 32, uid, version, 0, base, size) for uid, version, base, size in bridges)
    for base, size, ways, *targets in entries:
        listed = struct.pack(f"<{len(targets)}I", *targets)
        body += struct.pack("<BxHIQQB11x", 1, 36 + len(listed), 0, base, size, ways) + listed
    return bytes(36) + body


def test_windows():
    one, two = (0x5D0000000, 4 << 30, 0), (0x6D0000000, 1 << 30, 1)
    found = parse_cedt(cedt(one, two)).windows
    assert [(each.base, each.size, each.ways) for each in found] == [(0x5D0000000, 4 << 30, 1), (0x6D0000000, 1 << 30, 2)]
    assert choose(found[:1], None, None) == choose(found, 0, None) == found[0]
    for number, message in ((None, "there are 2; say which: 0: 0x100000000"), (1, "interleaves"), (2, "is not there")):
        with pytest.raises(DatapathError, match=message):
            choose(found, number, None)


def test_the_window_that_leads_to_the_bridge_of_the_device():
    windows = [(0x5D0000000, 4 << 30, 1, 7, 8), (0x6D0000000, 1 << 30, 0, 7), (0x7D0000000, 1 << 30, 0, 8)]
    found = parse_cedt(cedt(*windows)).windows
    assert [each.targets for each in found] == [(7, 8), (7,), (8,)]
    assert choose(found, None, 7) == found[1] and choose(found, None, 8) == choose(found, 2, 8) == found[2]
    with pytest.raises(DatapathError, match="window 2: leads to another host bridge"):
        choose(found, 2, 7)
    with pytest.raises(DatapathError, match="none of 3 leads to the host bridge of the device alone"):
        choose(found, None, 9)
    twice = parse_cedt(cedt(*windows, (0x8D0000000, 1 << 30, 0, 7))).windows
    with pytest.raises(DatapathError, match="there are 2; say which: 1: 0x40000000 at 0x6d0000000, 3: "):
        choose(twice, None, 7)


def test_more_targets_than_the_entry_has():
    entry = bytearray(cedt((0x5D0000000, 4 << 30, 10, 7)))
    (found,) = parse_cedt(bytes(entry)).windows
    assert (found.ways, found.targets) == (12, (7,))


def test_host_bridges():
    good = (7, 1, 0x100000000, 0x10000)
    table = parse_cedt(cedt((0x5D0000000, 4 << 30, 0, 7), bridges=[good, (8, 0, 0x100010000, 0x2000)]))
    assert table.bridges[0] == Bridge(*good) and len(table.windows) == 1
    assert table.component(7, "b") == (0x100000000, 0x10000)
    with pytest.raises(DatapathError, match=r"is of CXL 1\.1"):
        table.component(8, "b")
    with pytest.raises(DatapathError, match="describes it 0 times"):
        table.component(9, "b")
    with pytest.raises(DatapathError, match="describes it 2 times"):
        parse_cedt(cedt(bridges=[good, good])).component(7, "b")
    for base, size in ((0x100000800, 0x10000), (0, 0x10000), (0x100000000, 0x1000), ((1 << 64) - 0x1000, 0x10000)):
        with pytest.raises(DatapathError, match="cannot be"):
            parse_cedt(cedt(bridges=[(7, 1, base, size)])).component(7, "b")


def port_config(kind, number):
    """The configuration space of a port: its PCI Express capability, behind another one, and a locator of registers in BAR 0."""
    raw = bytearray(4096)
    raw[0x06], raw[0x34], raw[0x40], raw[0x41], raw[0x50] = 0x10, 0x40, 5, 0x50, 0x10
    struct.pack_into("<HII", raw, 0x52, kind << 4 | 2, 0, 0)
    struct.pack_into("<I", raw, 0x5C, number << 24)
    struct.pack_into("<IIH", raw, 0x100, 1 << 16 | 0x23, 0x1C << 20 | 0x1E98, 8)
    struct.pack_into("<II", raw, 0x10C, 1 << 8, 0)
    return bytes(raw)


def tree(root, *ports):
    """A host bridge (UID 64) with these root ports, of the numbers 3, 4 and so on. Further ports of a path are a switch, the
    downstream port has number 9. The device is below the first."""
    bridge = root / "devices" / "pci0000:40"
    for number, way in enumerate(ports):
        for depth, port in enumerate(way.split("/")):
            folder = bridge / "/".join(way.split("/")[: depth + 1])
            folder.mkdir(parents=True)
            (folder / "class").write_text("0x060400\n")
            (folder / "config").write_bytes(port_config((4, 5, 6)[depth], (3 + number, 0, 9)[depth]))
            (root / "bus/pci/devices").mkdir(parents=True, exist_ok=True)
            (root / "bus/pci/devices" / port).symlink_to(folder)
    (bridge / "firmware_node").mkdir()
    (bridge / "firmware_node/uid").write_text("64\n")
    device = bridge / ports[0] / "0000:50:00.0"
    device.mkdir()
    (root / "bus/pci/devices" / device.name).symlink_to(device)
    return root


@pytest.mark.parametrize(
    ("attribute", "partition", "series"),
    [
        ("create_dynamic_ram_1_region", "dynamic_ram_1", "v11"),
        ("create_dynamic_ram_a_region", "dynamic_ram_a", "v8 to v10"),
        ("create_dc_region", "dc0", "before v8"),
    ],
)
def test_kernels_with_dynamic_capacity(tmp_path, attribute, partition, series):
    devices = tmp_path / "bus" / "cxl" / "devices"
    (devices / "decoder0.0").mkdir(parents=True)
    (devices / "mem0").mkdir()
    assert kernel.probe(tmp_path) is None
    (devices / "decoder0.0" / attribute).touch()
    assert kernel.probe(tmp_path) is None, "the memdev has no such partition"
    (devices / "mem0" / partition).mkdir()
    found = kernel.probe(tmp_path)
    assert found and found.series == series
