# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a namespace: ours, somebody else's, and the one that another host took the info block from."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab import namespace as namespaces
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.namespace import plan_absent, plan_present
from ansible.module_utils.cxl_lab.ndctl_list import Namespace, parse_nd_regions
from fakes import fixture
from hypothesis import given
from hypothesis import strategies as st

WANT = namespaces.parse_want((0xC0DE0001,), "cbd0", "devdax", "mem", "2M")
MADE = parse_nd_regions(fixture("ndctl_list"))[0]
OURS = MADE.namespaces[0]
BARE = replace(MADE, namespaces=())
CREATE = f"ndctl create-namespace -r region0 -m devdax --map=mem -a 2097152 -n cbd0 -u {WANT.uuid}"
REMOVE = ["ndctl disable-namespace namespace0.0", "ndctl destroy-namespace namespace0.0"]


def argv(steps):
    return [" ".join(step.argv) for step in steps]


def region_with(**change):
    return replace(MADE, namespaces=(replace(OURS, **change),))


def test_create():
    assert argv(plan_present(WANT, BARE, force=False)) == [CREATE]


def test_both_hosts_give_it_the_same_uuid():
    assert WANT.uuid == OURS.uuid, "the one in the recorded label"
    assert namespaces.parse_want((0xC0DE0001,), "other", "devdax", "mem", "2M").uuid != WANT.uuid
    assert namespaces.parse_want((0xC0DE0002,), "cbd0", "devdax", "mem", "2M").uuid != WANT.uuid


def test_nothing_to_do_where_it_is():
    assert plan_present(WANT, MADE, force=False) == []
    assert plan_present(WANT, MADE, force=True) == []


def test_out_of_service_is_enabled_whatever_it_looks_like():
    asleep = region_with(enabled=False, mode="raw", device="")
    assert argv(plan_present(WANT, asleep, force=False)) == ["ndctl enable-namespace namespace0.0"]


def test_lost_info_block_is_written_again_without_force():
    region = region_with(mode="raw", map="", claim="devdax", device="/dev/pmem0")
    assert argv(plan_present(WANT, region, force=False)) == [*REMOVE, CREATE]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mode": "fsdax"}, "exists with mode fsdax"),
        ({"mode": "raw", "claim": ""}, "exists with mode raw"),
        ({"map": "dev"}, "exists with map dev"),
        ({"align": 4096}, "exists with align 4K"),
        ({"uuid": "00000000-0000-0000-0000-000000000001"}, "exists with uuid 00000000"),
        ({"mode": "raw", "claim": "devdax", "uuid": "1"}, "exists with mode raw, uuid 1"),
    ],
)
def test_ours_in_another_shape_needs_force(change, match):
    with pytest.raises(LabError, match=match):
        plan_present(WANT, region_with(**change), force=False)
    steps = plan_present(WANT, region_with(**change), force=True)
    assert argv(steps) == [*REMOVE, CREATE]


@pytest.mark.parametrize("force", [False, True])
def test_somebody_elses_is_refused_even_with_force(force):
    with pytest.raises(LabError, match=r"not ours: namespace0.0 \(name photos, mode fsdax, uuid 6798b50d"):
        plan_present(WANT, region_with(name="photos", mode="fsdax"), force=force)


def test_absent_concerns_ours_only():
    assert argv(plan_absent(WANT, MADE)) == REMOVE
    assert argv(plan_absent(WANT, region_with(enabled=False))) == ["ndctl destroy-namespace namespace0.0"]
    assert plan_absent(WANT, region_with(name="photos")) == []
    assert plan_absent(WANT, BARE) == []


def test_a_device_in_use_is_refused_with_its_users():
    with pytest.raises(LabError, match=r"/dev/dax0.0 is in use: process 812 \(python3\); stop"):
        namespaces.refuse_in_use(WANT, OURS, lambda device: ["process 812 (python3)"])
    namespaces.refuse_in_use(WANT, OURS, lambda device: [])


@pytest.mark.parametrize("name", ["", "-f", "Cbd0", "a b", "a" * 33, "cbd0;"])
def test_a_name_that_may_not_reach_a_command_line(name):
    with pytest.raises(LabError, match="no valid name"):
        namespaces.parse_want((1,), name, "devdax", "mem", "2M")


spaces = st.lists(
    st.builds(
        Namespace,
        dev=st.sampled_from(["namespace0.0", "namespace0.1"]),
        name=st.sampled_from(["cbd0", "photos", ""]),
        mode=st.sampled_from(["devdax", "fsdax", "raw", "sector", ""]),
        map=st.sampled_from(["mem", "dev", ""]),
        size=st.just(0),
        align=st.sampled_from([0, 4096, 2 << 20]),
        uuid=st.sampled_from([WANT.uuid, "other"]),
        device=st.just(""),
        enabled=st.booleans(),
        claim=st.sampled_from(["devdax", "fsdax", ""]),
    ),
    max_size=2,
)


@given(spaces, st.booleans())
def test_without_our_name_nothing_happens_to_what_is_there(existing, force):
    region = replace(BARE, namespaces=tuple(existing))
    ours = {space.dev for space in existing if space.name == "cbd0"}
    try:
        steps = plan_present(WANT, region, force=force)
    except LabError:
        return
    assert ours or not existing
    for step in steps:
        assert ours & set(step.argv) or "-r" in step.argv


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("raw", ""), ("sector", " -l 512"), ("fsdax", " --map=mem -a 2097152")],
)
def test_each_mode_is_made_with_what_belongs_to_it(mode, shape):
    want = namespaces.parse_want((0xC0DE0001,), "cbd0", mode, "mem", "2M", sector_size=512)
    assert argv(plan_present(want, BARE, force=False)) == [
        f"ndctl create-namespace -r region0 -m {mode}{shape} -n cbd0 -u {want.uuid}"
    ]


def test_a_raw_namespace_has_no_map_and_no_alignment_to_differ_in():
    want = namespaces.parse_want((0xC0DE0001,), "cbd0", "raw", "dev", "4K")
    assert plan_present(want, region_with(mode="raw", map="", align=0, uuid=want.uuid), force=False) == []


def test_another_sector_size_needs_force():
    want = namespaces.parse_want((0xC0DE0001,), "cbd0", "sector", "mem", "2M", sector_size=4096)
    same = region_with(mode="sector", map="", align=0, sector_size=4096)
    assert plan_present(want, same, force=False) == []
    with pytest.raises(LabError, match="exists with sector_size 512"):
        plan_present(want, region_with(mode="sector", map="", align=0, sector_size=512), force=False)
