# SPDX-License-Identifier: GPL-3.0-or-later
"""Probe, format, attach on memory in this process."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ram import Crash, Ram

from cxl_datapath.cbd.geometry import FormatOptions
from cxl_datapath.cbd.layout import Info
from cxl_datapath.cbd.metadata import seal
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import INFO_COPY, attach, check_may_format, info_pair, plan_format, probe, write_format
from cxl_datapath.errors import Code, DatapathError

SMALL = FormatOptions(hosts=2, backends=2, blkdevs=2, channels=1, ring_depth=2, slot_bytes=4096)
SIZE = 1 << 20


def nobody() -> list[str]:
    return []


def formatted(size: int = SIZE) -> Ram:
    ram = Ram(size)
    write_format(ram, plan_format(size, "pool0", SMALL, "software", True))
    return ram


def test_a_format_can_be_attached():
    info = attach(formatted(), "memory")
    assert (info.name, info.geometry.total_size, info.features, info.lease_ms) == ("pool0", SIZE, 1, 5000)


@pytest.mark.parametrize("lease_ms", [1000, 600_000])
def test_a_lease_is_kept(lease_ms):
    ram = Ram(SIZE)
    write_format(ram, plan_format(SIZE, "pool0", SMALL, "software", True, lease_ms=lease_ms))
    assert attach(ram, "memory").lease_s * 1000 == lease_ms


@pytest.mark.parametrize("lease_ms", [0, 999, 600_001])
def test_a_lease_that_is_not_possible_is_named(lease_ms):
    with pytest.raises(DatapathError) as caught:
        plan_format(SIZE, "pool0", SMALL, "software", True, lease_ms=lease_ms)
    assert (caught.value.code, caught.value.object) == (Code.INVALID, "lease_ms")


def test_probe_tells_empty_foreign_and_formatted_apart():
    empty, foreign = Ram(SIZE), Ram(SIZE)
    foreign.data[5000] = 1
    assert (probe(empty).formatted, probe(empty).foreign) == (False, False)
    assert (probe(foreign).formatted, probe(foreign).foreign) == (False, True)
    assert (probe(formatted()).formatted, probe(formatted()).foreign) == (True, False)
    assert probe(Ram(4096)).formatted is False


def test_format_clears_entries_and_rings_of_an_earlier_life():
    ram = Ram(SIZE)
    ram.data[:] = b"\xa5" * SIZE
    write_format(ram, plan_format(SIZE, "pool0", SMALL, "hardware", False))
    info = attach(ram, "memory")
    registry = Registry(ram, info)
    assert registry.hosts.all() == registry.backends.all() == registry.blkdevs.all() == [None, None]
    start = info.geometry.channel_off(0)
    assert not any(ram.read(start, 4096 + 2 * 4096))


@pytest.mark.parametrize("budget", [0, 8192, 12288, 30000])
def test_a_format_cut_short_leaves_no_transport(budget):
    ram = formatted()
    ram.budget = budget
    with pytest.raises(Crash):
        write_format(ram, plan_format(SIZE, "pool1", SMALL, "software", True))
    ram.budget = None
    seen = probe(ram)
    assert budget == 0 or not seen.formatted
    assert seen.info is None or seen.info.name == "pool0"


@pytest.mark.parametrize(
    ("offset", "magic", "word"),
    [(0, b"XFSB", "XFS"), (1080, b"\x53\xef", "ext"), (0, b"LUKS\xba\xbe", "LUKS"), (4086, b"SWAPSPACE2", "swap")],
)
def test_a_known_signature_needs_force(offset, magic, word):
    ram = Ram(SIZE)
    ram.write(offset, magic)
    with pytest.raises(DatapathError) as caught:
        check_may_format(ram, "memory", False, nobody)
    assert caught.value.code == Code.EXISTS
    assert word in caught.value.message
    assert "force" in caught.value.hint
    check_may_format(ram, "memory", True, nobody)


@pytest.mark.parametrize("offset", [0, 5000, 70_000, SIZE - 1])
def test_data_of_something_unknown_needs_force(offset):
    ram = Ram(2 * SIZE)
    ram.data[offset] = 0x5A
    assert (probe(ram).foreign, probe(ram).problem) == (True, "data of something unknown")
    with pytest.raises(DatapathError) as caught:
        check_may_format(ram, "memory", False, nobody)
    assert (caught.value.code, "force" in caught.value.hint) == (Code.EXISTS, True)
    check_may_format(ram, "memory", True, nobody)


def test_what_is_behind_the_first_mib_is_nothing_that_a_format_looks_at():
    ram = Ram(2 * SIZE)
    ram.data[SIZE] = 1
    check_may_format(ram, "memory", False, nobody)


def test_a_transport_needs_force_and_dead_hosts():
    ram = formatted()
    with pytest.raises(DatapathError) as caught:
        check_may_format(ram, "memory", False, nobody)
    assert caught.value.code == Code.EXISTS
    with pytest.raises(DatapathError) as caught:
        check_may_format(ram, "memory", True, lambda: ["node2"])
    assert caught.value.code == Code.BUSY
    assert "node2" in caught.value.message
    check_may_format(ram, "memory", True, nobody)


def test_a_transport_of_an_earlier_version_is_refused_and_needs_force():
    ram = Ram(SIZE)
    ram.write(0, seal(Info.MAGIC, 1, b"?" * 176, INFO_COPY, version=1))
    with pytest.raises(DatapathError) as caught:
        attach(ram, "memory")
    assert (caught.value.code, "version 1" in caught.value.message) == (Code.UNSUPPORTED, True)
    with pytest.raises(DatapathError) as caught:
        check_may_format(ram, "memory", False, nobody)
    assert caught.value.code == Code.EXISTS


def test_a_damaged_transport_needs_force():
    ram = formatted()
    ram.data[100] ^= 1
    ram.data[INFO_COPY + 100] ^= 1
    assert probe(ram).formatted is False
    with pytest.raises(DatapathError, match="damaged CBD transport"):
        check_may_format(ram, "memory", False, nobody)


def test_a_later_version_is_a_transport_that_cannot_be_attached():
    ram = Ram(SIZE)
    ram.write(0, seal(Info.MAGIC, 1, b"?" * 500, INFO_COPY, version=3))
    seen = probe(ram)
    assert (seen.formatted, seen.info) == (True, None)
    assert "version 3" in seen.problem
    with pytest.raises(DatapathError) as caught:
        attach(ram, "memory")
    assert caught.value.code == Code.UNSUPPORTED


def test_a_transport_larger_than_the_memory_is_refused():
    ram = formatted()
    cut = Ram(SIZE - 4096)
    cut.data[:] = ram.data[: SIZE - 4096]
    with pytest.raises(DatapathError) as caught:
        attach(cut, "memory")
    assert caught.value.code == Code.RANGE


def test_an_empty_memory_cannot_be_attached():
    with pytest.raises(DatapathError) as caught:
        attach(Ram(SIZE), "memory")
    assert (caught.value.code, "format" in caught.value.hint) == (Code.NOT_FOUND, True)


def test_a_format_that_is_refused_at_the_last_moment_changes_nothing():
    ram = formatted()
    before = bytes(ram.data)
    seen = []

    def refuse() -> None:
        seen.append(probe(ram).info)
        raise DatapathError(Code.BUSY, "transport pool0", "in use")

    with pytest.raises(DatapathError):
        write_format(ram, plan_format(SIZE, "pool1", SMALL, "software", True), refuse)
    assert seen == [None], "who registers at this moment does not find the old transport any more"
    assert bytes(ram.data) == before


def test_a_damaged_info_says_what_can_be_done_about_it():
    ram = formatted()
    ram.data[100] ^= 1
    ram.data[INFO_COPY + 100] ^= 1
    with pytest.raises(DatapathError) as caught:
        attach(ram, "memory")
    assert caught.value.hint.endswith('docs/cbd.md, "A transport that was lost"')
    assert "own host" not in caught.value.hint


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 8191), st.integers(1, 255)), min_size=1, max_size=40))
def test_damage_in_the_info_area_is_survived(flips):
    ram = formatted()
    for offset, mask in flips:
        ram.data[offset] ^= mask
    seen = probe(ram)
    assert seen.info is None or seen.info.name == "pool0"
    if seen.info is None:
        with pytest.raises(DatapathError):
            attach(ram, "memory")


@given(st.binary(min_size=176, max_size=176))
def test_an_info_with_hostile_numbers_and_a_valid_crc_is_survived(payload):
    ram = Ram(SIZE)
    info_pair(ram).write(payload)
    seen = probe(ram)
    assert seen.info is None or seen.info.geometry.total_size <= SIZE
