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
from cxl_datapath.dcd.window import check_direct, choose, parse_cedt
from cxl_datapath.errors import DatapathError

PARSERS = [
    payloads.parse_config,
    lambda raw: payloads.parse_extents(raw, 0),
    payloads.parse_events,
    payloads.parse_dc_log_size,
    parse_cedt,
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


def cedt(*entries):
    body = b"".join(
        struct.pack("<BxHIQQBBHII", 1, 40, 0, base, size, ways, 0, 0, 0, 0)[:36] + bytes(4) for base, size, ways in entries
    )
    return bytes(36) + struct.pack("<BxH", 0, 32) + bytes(28) + body


def test_windows():
    one, two = (0x5D0000000, 4 << 30, 0), (0x6D0000000, 1 << 30, 1)
    found = parse_cedt(cedt(one, two))
    assert [(each.base, each.size, each.ways) for each in found] == [(0x5D0000000, 4 << 30, 1), (0x6D0000000, 1 << 30, 2)]
    assert choose(found[:1], None) == choose(found, 0) == found[0]
    for number, message in ((None, "there are 2; say which: 0: 0x100000000"), (1, "interleaves"), (2, "is not there")):
        with pytest.raises(DatapathError, match=message):
            choose(found, number)


def tree(root, *ports):
    """A host bridge with these root ports; the device is below the first."""
    bridge = root / "devices" / "pci0000:40"
    for port in ports:
        (bridge / port).mkdir(parents=True)
        (bridge / port / "class").write_text("0x060400\n")
    device = bridge / ports[0] / "0000:41:00.0"
    device.mkdir()
    (root / "bus/pci/devices").mkdir(parents=True)
    (root / "bus/pci/devices/0000:41:00.0").symlink_to(device)
    return root


def test_what_lies_between_window_and_device(tmp_path):
    check_direct(tree(tmp_path / "a", "0000:40:00.0"), "0000:41:00.0")
    with pytest.raises(DatapathError, match="2 root ports"):
        check_direct(tree(tmp_path / "b", "0000:40:00.0", "0000:40:01.0"), "0000:41:00.0")
    with pytest.raises(DatapathError, match="behind a switch"):
        check_direct(tree(tmp_path / "c", "0000:40:00.0/0000:41:00.0/0000:42:00.0"), "0000:41:00.0")


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
