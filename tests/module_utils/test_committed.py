# SPDX-License-Identifier: GPL-3.0-or-later
"""Mappings that QEMU never takes away: which regions they would spoil, and what is remembered of them."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.committed import Committed, Mapping
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.unmapped import forget
from dcd_devices import EMULATORS
from hdm_qemu import hdm_qemu
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20
BASE = 0x190000000


def machine(root, life="one"):
    """A host whose QEMU began as ``life``; "" for one that is no machine of a lab."""
    file = root / "sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw"
    file.unlink(missing_ok=True)
    if life:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(life.encode())
    return Committed(root)


def test_the_same_region_again_is_fine(tmp_path):
    host = machine(tmp_path)
    for _ in range(2):
        host.check("r", [1], BASE, 512 * MIB, 0)
        host.remember([1], BASE, 512 * MIB, 0)
    assert host.mappings() == [Mapping(1, BASE, 512 * MIB, 0)]


@pytest.mark.parametrize(
    ("serials", "base", "size", "dpa"),
    [
        ([1], BASE, 256 * MIB, 256 * MIB),  # another place on the memdev at the same addresses
        ([1], BASE + 256 * MIB, 256 * MIB, 0),  # the same place at addresses that overlap
        ([2, 3], BASE, 1024 * MIB, 0),  # a region that interleaves, which QEMU does not map
    ],
)
def test_a_region_that_would_show_other_bytes_is_refused(tmp_path, serials, base, size, dpa):
    host = machine(tmp_path)
    host.remember([1], BASE, 512 * MIB, 0)
    with pytest.raises(LabError, match=r"r: QEMU still shows memory of memdev 0x1 at 0x190000000.*off and on"):
        host.check("r", serials, base, size, dpa)


@pytest.mark.parametrize(
    ("serials", "base", "size", "dpa"),
    [
        ([1], BASE, 1024 * MIB, 0),  # a larger one from the same place on
        ([1], BASE + 512 * MIB, 256 * MIB, 0),  # beside it
        ([2], BASE, 512 * MIB, 0),  # the first of another memdev: its own mapping lies over the old one
        ([2, 3], BASE + 512 * MIB, 512 * MIB, 0),
    ],
)
def test_a_region_that_shows_its_own_bytes_is_fine(tmp_path, serials, base, size, dpa):
    host = machine(tmp_path)
    host.remember([1], BASE, 512 * MIB, 0)
    host.check("r", serials, base, size, dpa)


def test_only_the_first_mapping_of_a_memdev_lies_over_the_others(tmp_path):
    host = machine(tmp_path)
    host.remember([1], BASE, 512 * MIB, 0)
    host.remember([2], BASE + 512 * MIB, 512 * MIB, 0)
    with pytest.raises(LabError, match="memory of memdev 0x1"):
        host.check("r", [2], BASE, 512 * MIB, 0)


def test_what_lies_beneath_the_own_mapping_stays_there(tmp_path):
    """A region of a second device at the addresses of a first one was fine when it was made, and refused at the next look."""
    host = machine(tmp_path)
    host.remember([1], BASE, 256 * MIB, 0)
    for _ in range(2):
        host.check("r", [2], BASE, 256 * MIB, 0)
        host.remember([2], BASE, 256 * MIB, 0)
        host.remember([2], BASE + 512 * MIB, 256 * MIB, 256 * MIB)
    host.remember([3], BASE, 256 * MIB, 0)
    for serial in (1, 2):
        with pytest.raises(LabError, match="memory of memdev 0x3" if serial == 2 else "memory of memdev 0x2"):
            host.check("r", [serial], BASE, 256 * MIB, 0)


def test_another_start_of_the_machine_forgets(tmp_path):
    machine(tmp_path).remember([1], BASE, 512 * MIB, 0)
    assert machine(tmp_path, "two").mappings() == []
    machine(tmp_path, "two").remember([2], BASE, 512 * MIB, 0)
    assert machine(tmp_path, "one").mappings() == []


def test_a_real_host_remembers_nothing(tmp_path):
    host = machine(tmp_path, "")
    host.remember([1], BASE, 512 * MIB, 0)
    assert host.mappings() == [] and not (tmp_path / "var").exists()
    host.check("r", [1], BASE, 512 * MIB, 256 * MIB)


def test_what_interleaves_is_not_mapped(tmp_path):
    host = machine(tmp_path)
    host.remember([1, 2], BASE, 512 * MIB, 0)
    assert host.mappings() == []


def test_a_device_that_was_unplugged_comes_back_with_a_mapping_of_its_own(tmp_path):
    """QEMU takes the mapping away with the device, and the next device has its own, over all that came in between."""
    host = machine(tmp_path)
    host.remember([1], BASE, 512 * MIB, 0)
    host.remember([2], BASE, 512 * MIB, 0)
    forget(1, tmp_path / "var/lib/cxl-lab/committed.json")
    assert [one.serial for one in host.mappings()] == [2]
    host.check("r", [1], BASE, 512 * MIB, 0)


@pytest.mark.parametrize("text", [None, "[", "{}", '{"mappings": 7}', '{"mappings": [7]}'])
def test_forgetting_leaves_a_record_alone_that_it_cannot_read(tmp_path, text):
    file = tmp_path / "committed.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    forget(1, file)
    assert [one.read_text(encoding="utf-8") for one in tmp_path.iterdir()] == ([] if text is None else [text])


def test_a_record_that_nobody_can_read_is_an_error(tmp_path):
    host = machine(tmp_path)
    host.remember([1], BASE, 512 * MIB, 0)
    (tmp_path / "var/lib/cxl-lab/committed.json").write_text("[", encoding="utf-8")
    with pytest.raises(LabError, match="cannot be read"):
        host.check("r", [1], BASE, 512 * MIB, 0)


units = st.integers(0, 6)
mappings = st.builds(Mapping, st.sampled_from([1, 2]), units, st.integers(1, 4), units)


@given(mappings, mappings)
def test_hiding_is_what_a_look_at_each_byte_says(old, new):
    def shown(mapping):
        return {mapping.base + at: (mapping.serial, mapping.dpa + at) for at in range(mapping.size)}

    before, after = shown(old), shown(new)
    wrong = any(before[address] != after[address] for address in before.keys() & after.keys())
    assert old.hides([new.serial], new.base, new.size, new.dpa) == wrong


@pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it")
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([(0, 0, 256)], [(0, 0, 256)]),
        ([(0, 0, 256)], [(0, 0, 512)]),
        ([(0, 0, 256)], [(0, 1024, 256)]),
        ([(0, 0, 256), (1, 256, 256)], [(0, 256, 256)]),
        ([(0, 0, 256), (1, 1024, 256)], [(0, 2048, 256), (1, 0, 256)]),
    ],
)
def test_where_a_real_qemu_shows_other_bytes_the_region_is_refused(first, then, tmp_path):
    """Decoders: number, place in the window and size in MiB. Those of ``then`` are committed when the first ones are no more."""
    host, wrong, refused = machine(tmp_path), [], []
    with hdm_qemu() as qemu:

        def make(regions, look):
            dpa = 0
            for decoder, at, size in regions:
                base = qemu.window + at * MIB
                qemu.commit(decoder, base, size * MIB)
                if look:
                    marker = 0xC0FFEE0000000000 + decoder
                    qemu.store(base, marker)
                    wrong.append(qemu.place(marker) != dpa)
                    refused.append(any(one.hides([7], base, size * MIB, dpa) for one in host.mappings()))
                host.remember([7], base, size * MIB, dpa)
                dpa += size * MIB

        make(first, False)
        qemu.uncommit(*(decoder for decoder, _, _ in reversed(first)))
        make(then, True)
    assert all(no for bad, no in zip(wrong, refused) if bad)
    assert len(first) > 1 or not any(refused), "what is right is not refused"
