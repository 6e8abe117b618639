# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a region: what it does, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import region_state
from ansible.module_utils.cxl_lab.cxl_list import Region, parse_memdevs, parse_regions, parse_root_decoders
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.ndctl_list import parse_nd_regions
from ansible.module_utils.cxl_lab.region import plan_absent, plan_present
from ansible.module_utils.cxl_lab.region_state import GRAIN, RegionState, RegionWant
from fakes import FakeRunner, fixture
from hypothesis import given
from hypothesis import strategies as st

WANT = RegionWant((0xC0DE0001,))
MEMDEV = parse_memdevs(fixture("cxl_list_memdevs"))[0]
DECODERS = tuple(parse_root_decoders(fixture("cxl_list_decoders")))
REGION = parse_regions(fixture("cxl_list_regions"))[0]
NAMESPACES = parse_nd_regions(fixture("ndctl_list"))[0].namespaces
BARE = RegionState((MEMDEV,), (), DECODERS, ())
MADE = RegionState((MEMDEV,), (REGION,), (), (), uuid="2f6a4a54-9ac1-43c5-a9e6-7b5b2f6ac0de")


def argv(steps):
    return [" ".join(step.argv) for step in steps]


def test_create_under_the_decoder_that_has_room():
    assert argv(plan_present(WANT, BARE)) == ["cxl create-region -d decoder0.0 -t pmem -m mem1"]


def test_create_with_size_and_uuid():
    want = region_state.parse_want([0xC0DE0001], "256M", "2F6A4A54-9AC1-43C5-A9E6-7B5B2F6AC0DE")
    line = "cxl create-region -d decoder0.1 -t pmem -s 268435456 -U 2f6a4a54-9ac1-43c5-a9e6-7b5b2f6ac0de -m mem1"
    assert argv(plan_present(want, BARE)) == [line], "the window at the highest address that has room"


def test_nothing_to_do_where_it_is():
    assert plan_present(WANT, MADE) == []
    assert plan_present(RegionWant((0xC0DE0001,), 512 << 20, MADE.uuid), MADE) == []


def test_a_disabled_region_is_enabled():
    have = replace(MADE, regions=(replace(REGION, enabled=False),))
    assert argv(plan_present(WANT, have)) == ["cxl enable-region region3"]


@pytest.mark.parametrize(
    ("want", "change", "match"),
    [
        (WANT, {"memdevs": ("mem1", "mem4")}, "interleaves mem1, mem4"),
        (WANT, {"type": "ram"}, "type ram, not pmem"),
        (WANT, {"committed": False}, "not committed"),
        (RegionWant((0xC0DE0001,), GRAIN), {}, "512M, not 256M"),
        (RegionWant((0xC0DE0001,), 0, "00000000-0000-0000-0000-000000000001"), {}, "exists with uuid 2f6a4a54"),
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
        plan_present(WANT, replace(BARE, memdevs=(replace(MEMDEV, pmem_size=0),)))


def test_size_above_the_memdev():
    with pytest.raises(LabError, match="768M does not fit on mem1"):
        plan_present(RegionWant((0xC0DE0001,), 3 * GRAIN), BARE)


@pytest.mark.parametrize("size", ["300M", "1", "0"])
def test_size_that_no_region_can_have(size):
    with pytest.raises(LabError, match=r"256 MiB|no size"):
        region_state.parse_want([1], size, None)


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
    want = RegionWant((0xC0DE0001,), size)
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


#: Two bridges; below a a switch with four memdevs and a memdev, below b a memdev.
PATHS = {
    **{
        f"s{n}": ("pci0000:40", "0000:40:00.0", "0000:41:00.0", f"0000:42:{n:02x}.0", f"0000:{0x43 + n:x}:00.0") for n in range(4)
    },
    "m0": ("pci0000:40", "0000:40:01.0", "0000:47:00.0"),
    "m1": ("pci0000:48", "0000:48:00.0", "0000:49:00.0"),
    "m2": ("pci0000:40", "0000:40:02.0", "0000:4f:00.0"),
    "m3": ("pci0000:48", "0000:48:01.0", "0000:50:00.0"),
}
WINDOWS = (
    replace(DECODERS[0], name="decoder0.0", ways=2, granularity=1024, targets=("pci0000:48", "pci0000:40")),
    replace(DECODERS[0], name="decoder0.1", targets=("pci0000:40",)),
)


def spread(*names, **capacity) -> tuple[RegionWant, RegionState]:
    """A wish for a region over these memdevs, and a host that has them and two windows."""
    memdevs = tuple(replace(MEMDEV, name=name, serial=n, pmem_size=GRAIN, **capacity) for n, name in enumerate(names, 1))
    have = RegionState(memdevs, (), WINDOWS, (), paths=tuple(PATHS[name] for name in names))
    return RegionWant(tuple(memdev.serial for memdev in memdevs)), have


def test_two_ways_over_two_bridges_in_the_order_of_the_window():
    assert argv(plan_present(*spread("m0", "m1"))) == ["cxl create-region -d decoder0.0 -t pmem -w 2 -g 1024 -m m1 m0"]


def test_four_ways_alternate_between_the_bridges():
    (line,) = argv(plan_present(*spread("m0", "m2", "m1", "m3")))
    assert line == "cxl create-region -d decoder0.0 -t pmem -w 4 -g 1024 -m m1 m0 m3 m2"


def test_four_ways_below_a_switch_take_the_window_of_its_bridge():
    want, have = spread("s0", "s1", "s2", "s3")
    line = "cxl create-region -d decoder0.1 -t pmem -w 4 -g 256 -m s0 s1 s2 s3"
    assert argv(plan_present(want, have)) == [line]
    assert argv(plan_present(replace(want, granularity=4096), have)) == [line.replace("256", "4096")]


@pytest.mark.parametrize(
    ("names", "change", "match"),
    [
        (("m0", "s0", "s1", "s2"), {}, r"do not divide evenly: 1 below 0000:40:01.0, 3 below 0000:40:00.0"),
        (("s0", "s1", "s2"), {}, "3 ways below one bridge or switch; there only 2, 4 and 8 work"),
        (("m0", "m1"), {"granularity": 256}, "granularity 256 under decoder0.0, which has 1024"),
        (("m0", "m1"), {"size": 4 * GRAIN}, "1G does not fit on m0 m1"),
        (("m0", "m1"), {"type": "ram"}, "m0 m1 has no volatile capacity; choose a volatile memdev"),
        (("m1",), {}, "the memdevs lie below pci0000:48, and there is only decoder0.0 over pci0000:48 pci0000:40; add a window"),
    ],
)
def test_what_cannot_be_interleaved(names, change, match):
    want, have = spread(*names)
    if names == ("m1",):
        have = replace(have, decoders=WINDOWS[:1])
    with pytest.raises(LabError, match=match):
        plan_present(replace(want, **change), have)


@pytest.mark.parametrize("serials", [[1, 1], [1, 2, 3, 4, 5], []])
def test_numbers_of_memdevs_that_no_region_has(serials):
    with pytest.raises(LabError, match="memdevs cannot be interleaved"):
        region_state.parse_want(serials, None, None)


def test_a_size_that_does_not_divide():
    with pytest.raises(LabError, match="size 256M is not n x 256 MiB for each of 2 memdevs"):
        region_state.parse_want([1, 2], "256M", None)


def test_an_interleaved_region_is_ours_in_whatever_order_it_was_made():
    want, have = spread("m0", "m1")
    made = replace(have, regions=(replace(REGION, memdevs=("m0", "m1"), granularity=1024),))
    assert plan_present(want, made) == []
    assert region_state.describe(made)["serials"] == ["0x1", "0x2"]
    with pytest.raises(LabError, match="granularity 1024, not 256"):
        plan_present(replace(want, granularity=256), made)
    with pytest.raises(LabError, match="interleaves m0, m2"):
        plan_present(want, replace(made, regions=(replace(REGION, memdevs=("m0", "m2")),)))


def test_volatile_memory_is_kept_offline_before_it_appears():
    want, have = spread("m0", "m1", ram_size=GRAIN)
    offline, create = plan_present(replace(want, type="ram"), have)
    assert (offline.argv[0], offline.stdin) == ("tee", "offline\n") and offline.argv[1].endswith("auto_online_blocks")
    assert " ".join(create.argv) == "cxl create-region -d decoder0.0 -t ram -w 2 -g 1024 -m m1 m0"


@given(st.permutations(["m0", "m1", "m2", "m3"]))
def test_any_order_of_names_gives_one_that_alternates(names):
    (line,) = argv(plan_present(*spread(*names)))
    order = line.split(" -m ")[1].split()
    assert [PATHS[name][0] for name in order] == ["pci0000:48", "pci0000:40"] * 2 and sorted(order) == sorted(names)


def test_where_memdevs_are_is_read_from_sysfs(tmp_path):
    """The links of /sys/bus/cxl/devices lead through every PCI function above a memdev."""
    for name, path in (("mem1", PATHS["m0"]), ("mem0", PATHS["m1"])):
        real = tmp_path.joinpath("sys", *path, name)
        real.mkdir(parents=True)
        (tmp_path / name).symlink_to(real)
    memdevs = [{**row, "pmem_size": GRAIN} for row in fixture("cxl_list_memdevs")[:2]]
    runner = FakeRunner(
        {
            "cxl list -M": json.dumps(memdevs),
            "cxl list -R": "",
            "cxl list -D": json.dumps(fixture("cxl_list_decoders")),
        }
    )
    want = region_state.parse_want([row["serial"] for row in memdevs], None, None)
    have = region_state.observe(runner, want, tmp_path)
    assert [memdev.name for memdev in have.memdevs] == ["mem1", "mem0"]
    assert have.paths == (PATHS["m0"], PATHS["m1"])
    (line,) = argv(plan_present(want, replace(have, decoders=WINDOWS)))
    assert line.endswith("-w 2 -g 1024 -m mem0 mem1")
    assert region_state.observe(runner, region_state.parse_want([1], None, None), tmp_path) is None


def of_both_kinds(*types):
    """A memdev with 512 MiB of each kind of memory, and regions of these types over it."""
    rows = [{**fixture("cxl_list_memdevs")[0], "ram_size": 512 << 20}]
    made = [{**fixture("cxl_list_regions")[0], "region": f"region{number}", "type": type_} for number, type_ in enumerate(types)]
    answers = {"cxl list -M": rows, "cxl list -R": made, "cxl list -D": fixture("cxl_list_decoders"), "ndctl list": []}
    return FakeRunner({command: json.dumps(told) for command, told in answers.items()})


def test_volatile_memory_of_a_device_of_both_kinds_cannot_be_had_after_its_persistent_memory(tmp_path):
    want = replace(WANT, type="ram")
    have = region_state.observe(of_both_kinds("pmem"), want, tmp_path)
    with pytest.raises(
        LabError, match=r"region0 of persistent memory was made first.*; destroy region0, make the region of type ram"
    ):
        plan_present(want, have)


@pytest.mark.parametrize(("type_", "types"), [("ram", ()), ("pmem", ()), ("pmem", ("ram",))])
def test_a_device_of_both_kinds_gets_a_region_of_each_in_this_order(type_, types, tmp_path):
    want = replace(WANT, type=type_)
    (create,) = [
        line for line in argv(plan_present(want, region_state.observe(of_both_kinds(*types), want, tmp_path))) if "create" in line
    ]
    assert f"-t {type_}" in create


@pytest.mark.parametrize("type_", ["ram", "pmem"])
def test_where_both_are_there_is_nothing_to_do(type_, tmp_path):
    want = replace(WANT, type=type_)
    have = region_state.observe(of_both_kinds("pmem", "ram"), want, tmp_path)
    assert plan_present(want, have) == [] and [region.type for region in have.regions] == [type_]
