# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a region: what it does, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import region as regions
from ansible.module_utils.cxl_lab.cxl_list import Region, parse_memdevs, parse_regions, parse_root_decoders
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.ndctl_list import parse_nd_regions
from ansible.module_utils.cxl_lab.region import GRAIN, RegionState, RegionWant, plan_absent, plan_present
from fakes import fixture
from hypothesis import given
from hypothesis import strategies as st

WANT = RegionWant(0xC0DE0001)
MEMDEV = parse_memdevs(fixture("cxl_list_memdevs"))[0]
DECODERS = tuple(parse_root_decoders(fixture("cxl_list_decoders")))
REGION = parse_regions(fixture("cxl_list_regions"))[0]
NAMESPACES = parse_nd_regions(fixture("ndctl_list"))[0].namespaces
BARE = RegionState(MEMDEV, (), DECODERS, ())
MADE = RegionState(MEMDEV, (REGION,), (), (), uuid="2f6a4a54-9ac1-43c5-a9e6-7b5b2f6ac0de")


def argv(steps):
    return [" ".join(step.argv) for step in steps]


def test_create_under_the_decoder_that_has_room():
    assert argv(plan_present(WANT, BARE)) == ["cxl create-region -d decoder0.0 -t pmem -m mem1"]


def test_create_with_size_and_uuid():
    want = regions.parse_want(0xC0DE0001, "256M", "2F6A4A54-9AC1-43C5-A9E6-7B5B2F6AC0DE")
    line = "cxl create-region -d decoder0.1 -t pmem -s 268435456 -U 2f6a4a54-9ac1-43c5-a9e6-7b5b2f6ac0de -m mem1"
    assert argv(plan_present(want, BARE)) == [line], "the window at the highest address that has room"


def test_nothing_to_do_where_it_is():
    assert plan_present(WANT, MADE) == []
    assert plan_present(RegionWant(0xC0DE0001, 512 << 20, MADE.uuid), MADE) == []


def test_a_disabled_region_is_enabled():
    have = replace(MADE, regions=(replace(REGION, enabled=False),))
    assert argv(plan_present(WANT, have)) == ["cxl enable-region region3"]


@pytest.mark.parametrize(
    ("want", "change", "match"),
    [
        (WANT, {"memdevs": ("mem1", "mem4")}, "interleaves mem1, mem4"),
        (WANT, {"type": "ram"}, "type ram, not pmem"),
        (WANT, {"committed": False}, "not committed"),
        (RegionWant(0xC0DE0001, GRAIN), {}, "512M, not 256M"),
        (RegionWant(0xC0DE0001, 0, "00000000-0000-0000-0000-000000000001"), {}, "exists with uuid 2f6a4a54"),
    ],
)
def test_another_region_is_refused_and_untouched(want, change, match):
    with pytest.raises(LabError, match=match):
        plan_present(want, replace(MADE, regions=(replace(REGION, **change),)))


def test_two_regions_over_one_memdev_are_refused():
    with pytest.raises(LabError, match="region3, region4 share mem1"):
        plan_present(WANT, replace(MADE, regions=(REGION, replace(REGION, name="region4"))))


def test_no_capable_decoder_and_no_room():
    volatile = tuple(replace(decoder, pmem_capable=False) for decoder in DECODERS)
    with pytest.raises(LabError, match="no root decoder above mem1 takes persistent memory"):
        plan_present(WANT, replace(BARE, decoders=volatile))
    with pytest.raises(LabError, match=r"needs 512M.*decoder0.1 256M"):
        plan_present(WANT, replace(BARE, decoders=DECODERS[1:]))


def test_memdev_without_persistent_capacity():
    with pytest.raises(LabError, match="mem1 has no persistent capacity"):
        plan_present(WANT, replace(BARE, memdev=replace(MEMDEV, pmem_size=0)))


def test_size_above_the_memdev():
    with pytest.raises(LabError, match="768M does not fit on mem1"):
        plan_present(RegionWant(0xC0DE0001, 3 * GRAIN), BARE)


@pytest.mark.parametrize("size", ["300M", "1", "0"])
def test_size_that_no_region_can_have(size):
    with pytest.raises(LabError, match=r"256 MiB|no size"):
        regions.parse_want(1, size, None)


def test_absent_takes_down_in_order():
    assert argv(plan_absent(WANT, MADE)) == ["cxl disable-region region3", "cxl destroy-region region3"]
    assert plan_absent(WANT, BARE) == []


def test_absent_is_refused_under_a_namespace_in_service():
    have = replace(MADE, namespaces=NAMESPACES)
    with pytest.raises(LabError, match=r"namespace cbd0 \(devdax, /dev/dax0.0\); destroy the namespace first"):
        plan_absent(WANT, have)
    asleep = replace(MADE, namespaces=tuple(replace(space, enabled=False) for space in NAMESPACES))
    assert plan_absent(WANT, asleep), "a label alone does not hold a region"


region_lists = st.lists(
    st.builds(
        Region,
        name=st.sampled_from(["region0", "region1"]),
        type=st.sampled_from(["pmem", "ram", ""]),
        resource=st.just(0),
        size=st.sampled_from([GRAIN, 2 * GRAIN]),
        committed=st.booleans(),
        enabled=st.booleans(),
        memdevs=st.sampled_from([("mem1",), ("mem1", "mem2")]),
    ),
    max_size=2,
)


@given(region_lists, st.sampled_from([0, GRAIN, 2 * GRAIN]), st.booleans())
def test_a_plan_never_touches_what_is_not_ours(existing, size, present):
    have = replace(BARE, regions=tuple(existing))
    want = RegionWant(0xC0DE0001, size)
    try:
        steps = plan_present(want, have) if present else plan_absent(want, have)
    except LabError:
        return
    assert len(existing) <= 1
    assert all(region.memdevs == ("mem1",) for region in existing)
    for step in steps:
        assert step.argv[1] in {"create-region", "enable-region"} if present else {"disable-region", "destroy-region"}
    if present and existing:
        assert "create-region" not in [step.argv[1] for step in steps]
