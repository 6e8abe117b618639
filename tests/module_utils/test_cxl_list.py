# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl list and ndctl list as records; hostile answers are errors, never exceptions of another kind."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import cxl_list, ndctl_list
from ansible.module_utils.cxl_lab.errors import LabError
from fakes import FakeRunner, fixture
from hypothesis import given
from hypothesis import strategies as st

KEYS = ["memdev", "serial", "mappings", "region", "dimms", "regions", "namespaces", "dev", "daxregion"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda child: st.lists(child, max_size=3) | st.dictionaries(st.sampled_from(KEYS), child, max_size=4),
    max_leaves=12,
)


def test_memdevs_tell_capacity_and_acceptance():
    shared, volatile, odd = cxl_list.parse_memdevs(fixture("cxl_list_memdevs"))
    assert (shared.name, shared.serial, shared.pmem_size, shared.enabled) == ("mem1", 0xC0DE0001, 512 << 20, True)
    assert (volatile.pmem_size, volatile.ram_size) == (0, 256 << 20)
    assert not odd.enabled


def test_root_decoders_tell_what_they_take():
    first, second = cxl_list.parse_root_decoders(fixture("cxl_list_decoders"))
    assert first.pmem_capable and first.volatile_capable
    assert second.max_available_extent == 256 << 20


def test_regions_name_their_memdevs_in_interleave_order():
    row = fixture("cxl_list_regions")[0]
    row["mappings"] = [{"position": 1, "memdev": "mem7"}, {"position": 0, "memdev": "mem9"}]
    assert cxl_list.parse_regions([row])[0].memdevs == ("mem9", "mem7")


def test_no_output_is_no_device():
    assert cxl_list.parse_regions([]) == []
    assert ndctl_list.parse_nd_regions([]) == []


@pytest.mark.parametrize("value", ["0xc0de0001", "0XC0DE0001", "3235774465", 3235774465])
def test_serial_in_every_form(value):
    assert cxl_list.parse_serial(value) == 0xC0DE0001


@pytest.mark.parametrize("value", ["", "c0de0001", "-1", True, None, 1.5, "0x1ffffffffffffffff", "1 ; reboot"])
def test_serial_that_is_none(value):
    with pytest.raises(LabError, match="serial"):
        cxl_list.parse_serial(value)


@given(st.integers(0, 2**64 - 1))
def test_serial_survives_the_round_trip(serial):
    assert cxl_list.parse_serial(cxl_list.format_serial(serial)) == serial == cxl_list.parse_serial(serial)


def test_two_memdevs_of_one_serial_are_ambiguous():
    rows = fixture("cxl_list_memdevs")
    rows[1]["serial"] = rows[0]["serial"]
    with pytest.raises(LabError, match="mem1, mem0 carry the same serial"):
        cxl_list.find_memdev(cxl_list.parse_memdevs(rows), 0xC0DE0001)


@pytest.mark.parametrize("name", ["mem1; reboot", "../mem1", "-f", 7, None, "mem", "mem1\n"])
def test_a_name_that_is_no_memdev_never_reaches_a_command_line(name):
    with pytest.raises(LabError, match="memdev"):
        cxl_list.parse_memdevs([{"memdev": name, "serial": 1}])


@given(JSON)
def test_any_json_is_parsed_or_refused(tree):
    for parse in (cxl_list.parse_memdevs, cxl_list.parse_root_decoders, cxl_list.parse_regions, ndctl_list.parse_nd_regions):
        with contextlib.suppress(LabError):
            parse(tree)


def test_namespaces_come_with_label_uuid_and_device():
    region = ndctl_list.find_nd_region(ndctl_list.parse_nd_regions(fixture("ndctl_list")), [0xC0DE0001])
    (space,) = region.namespaces
    assert space.device == "/dev/dax0.0"
    assert space.uuid == "6798b50d-b3e6-5844-b7f2-59f2164acd46", "the uuid of the label, not the one of the info block"
    assert (space.mode, space.map, space.align, space.name) == ("devdax", "mem", 2 << 20, "cbd0")


def test_region_over_several_memdevs_is_nobodys_own():
    buses = fixture("ndctl_list")
    buses[0]["dimms"].append({"dev": "nmem1", "id": "3235774466"})
    buses[0]["regions"][0]["mappings"].append({"dimm": "nmem1", "position": 1})
    assert ndctl_list.find_nd_region(ndctl_list.parse_nd_regions(buses), [0xC0DE0001]) is None


def test_claim_of_the_label_is_read_beside_the_list(tmp_path: Path):
    (tmp_path / "namespace0.0").mkdir()
    (tmp_path / "namespace0.0" / "holder_class").write_text("dax\n")
    text = (Path(__file__).parent.parent / "fixtures" / "ndctl_list.json").read_text()
    (region,) = ndctl_list.list_nd_regions(FakeRunner({"ndctl list": text}), tmp_path)
    assert region.namespaces[0].claim == "devdax"


@pytest.mark.parametrize(("text", "serial"), [("-1", 2**64 - 1), ("3235774465", 0xC0DE0001), ("0x12", -1), ("9" * 30, -1)])
def test_the_serial_of_a_dimm_is_a_signed_decimal(text, serial):
    buses = fixture("ndctl_list")
    buses[0]["dimms"][0]["id"] = text
    assert ndctl_list.parse_nd_regions(buses)[0].serials == (serial,)


@pytest.mark.parametrize(("name", "other_name"), [("target", "alias"), ("alias", "target")])
def test_a_window_over_two_bridges_names_them_in_its_order(name, other_name):
    """The manual page of cxl-list has the PCI root as the alias, Linux 6.12 with cxl-cli 81 as the target."""
    target = {name: "pci0000:40", other_name: "ACPI0016:01", "position": 1, "id": 64}
    other = {name: "pci0000:48", other_name: "ACPI0016:00", "position": 0, "id": 72}
    row = {**fixture("cxl_list_decoders")[0], "interleave_ways": 2, "interleave_granularity": 1024, "targets": [target, other]}
    (decoder,) = cxl_list.parse_root_decoders([row])
    assert (decoder.ways, decoder.granularity, decoder.targets) == (2, 1024, ("pci0000:48", "pci0000:40"))


def test_a_window_that_leads_to_a_memdev_keeps_the_targets_that_do_not():
    """cxl list -m leaves those out, so that a window over two bridges looked like one over the memdev's bridge alone."""
    near, far = ({"target": f"pci0000:{bus:x}", "position": int(bus == 0x48), "id": bus} for bus in (0x40, 0x48))
    both, one, other = ({**fixture("cxl_list_decoders")[0], "decoder": f"decoder0.{number}"} for number in range(3))
    lists = [{**both, "interleave_ways": 2, "targets": [near, far]}, {**one, "targets": [near]}, {**other, "targets": [far]}]
    filtered = [{**lists[0], "targets": [near]}, lists[1]]
    command = "cxl list -D -d root -T"
    runner = FakeRunner({command: json.dumps(lists), f"{command} -m mem1": json.dumps(filtered)})
    above = cxl_list.list_root_decoders(runner, cxl_list.parse_memdevs(fixture("cxl_list_memdevs"))[0])
    assert [(found.name, found.targets) for found in above] == [
        ("decoder0.0", ("pci0000:40", "pci0000:48")),
        ("decoder0.1", ("pci0000:40",)),
    ]


class TestASwitchedFabric:
    """What a host of the inventory "switched" printed (Linux 6.12, cxl-cli 81). The scenario of that inventory holds its
    keys against what a guest prints now, and records it anew (RECORD=1)."""

    lists = fixture("switched_lists")

    def test_memdevs_are_known_by_their_serial_numbers_whatever_their_names(self):
        memdevs = cxl_list.parse_memdevs(self.lists["cxl list -M -i"])
        assert {memdev.serial for memdev in memdevs} == {0xC0DE0000 + number for number in range(1, 8)}
        assert all(memdev.enabled for memdev in memdevs)
        volatile = cxl_list.find_memdev(memdevs, 0xC0DE0007)
        assert (volatile.ram_size, volatile.pmem_size) == (256 << 20, 0)

    def test_windows_lead_to_one_bridge_or_to_both(self):
        decoders = cxl_list.parse_root_decoders(self.lists["cxl list -D -d root -T"])
        assert [(one.ways, len(one.targets)) for one in decoders] == [(2, 2), (1, 1), (1, 1)]
        both, first, second = decoders
        assert both.targets == (*first.targets, *second.targets) and both.granularity == 1024
        assert all(0 < one.max_available_extent < one.size == 2 << 30 for one in decoders)

    def test_regions_have_their_memdevs_in_interleave_order(self):
        serials = {one.name: one.serial & 0xF for one in cxl_list.parse_memdevs(self.lists["cxl list -M -i"])}
        regions = {len(one.memdevs): one for one in cxl_list.parse_regions(self.lists["cxl list -R -T -i"])}
        assert [serials[name] for name in regions[2].memdevs] == [5, 6]
        assert sorted(serials[name] for name in regions[4].memdevs) == [1, 2, 3, 4]
        assert {ways: (one.type, one.granularity, one.size >> 20) for ways, one in regions.items()} == {
            **{4: ("pmem", 512, 1024), 2: ("pmem", 1024, 512), 1: ("ram", 256, 256)}
        }
        assert all(one.committed and one.enabled and len(set(one.decoders)) == len(one.memdevs) for one in regions.values())
