# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a RAM disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import ramdisk
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.ramdisk import RamdiskState, plan_absent, plan_present
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner
from hypothesis import given
from hypothesis import strategies as st

SIZE = 512 << 20
WANT = ramdisk.parse_want("ram0", "512M", 1)
NONE = RamdiskState((), 0, (), "")
BARE = RamdiskState(("ram0",), SIZE, (), "")
MADE = RamdiskState(("ram0",), SIZE, ("ram0p1",), "gpt")


def argv(steps):
    return [" ".join(step.argv) for step in steps]


def test_load_and_partition():
    steps = plan_present(WANT, NONE)
    assert argv(steps) == ["modprobe brd rd_nr=1 rd_size=524288 max_part=16", "sfdisk --quiet /dev/ram0"]
    assert steps[1].stdin == "label: gpt\n,\n"


def test_as_many_disks_as_the_name_needs():
    assert "rd_nr=4 " in argv(plan_present(ramdisk.parse_want("ram3", "512M", 0), NONE))[0]


def test_what_is_there_is_left_alone():
    assert plan_present(WANT, MADE) == []
    assert argv(plan_present(WANT, BARE)) == ["sfdisk --quiet /dev/ram0"]
    assert plan_present(ramdisk.parse_want("ram0", "512M", 0), RamdiskState(("ram0",), SIZE, (), "xfs")) == []


@pytest.mark.parametrize(
    ("have", "match"),
    [
        (RamdiskState(("ram0",), 16 << 20, (), ""), "ram0 of 16M, not with 512M; .*modprobe -r brd"),
        (RamdiskState(("ram1",), 0, (), ""), "no ram0, only ram1"),
        (RamdiskState(("ram0",), SIZE, (), "xfs"), "holds xfs already"),
        (RamdiskState(("ram0",), SIZE, ("ram0p1", "ram0p2"), "gpt"), "holds ram0p1, ram0p2 already"),
    ],
)
def test_another_use_is_refused(have, match):
    with pytest.raises(LabError, match=match):
        plan_present(WANT, have)


def test_absent():
    assert argv(plan_absent(WANT, MADE)) == ["modprobe -r brd"]
    assert plan_absent(WANT, NONE) == []
    with pytest.raises(LabError, match="ram1 would go too"):
        plan_absent(WANT, RamdiskState(("ram0", "ram1"), SIZE, (), ""))


@pytest.mark.parametrize(
    ("name", "size"), [("sda", "1G"), ("ram16", "1G"), ("ram0 rd_nr=2", "1G"), ("ram0", "1000"), ("ram0", "x")]
)
def test_bad_input(name, size):
    with pytest.raises(LabError):
        ramdisk.parse_want(name, size, 1)


def test_observe(tmp_path: Path):
    (tmp_path / "ram0" / "ram0p1").mkdir(parents=True)
    (tmp_path / "ram0" / "size").write_text("1048576\n")
    runner = FakeRunner({"blkid -p -o export /dev/ram0": "PTTYPE=gpt\n"})
    assert ramdisk.observe(runner, "ram0", tmp_path) == MADE
    assert ramdisk.observe(FakeRunner({"blkid": Result(2, "", "")}), "ram1", tmp_path) == RamdiskState(("ram0",), 0, (), "")


states = st.builds(
    RamdiskState,
    disks=st.sampled_from([(), ("ram0",), ("ram0", "ram1")]),
    size=st.sampled_from([0, 16 << 20, SIZE]),
    partitions=st.sampled_from([(), ("ram0p1",), ("ram0p1", "ram0p2")]),
    content=st.sampled_from(["", "gpt", "xfs"]),
)


@given(states)
def test_a_disk_that_holds_something_is_never_partitioned(have):
    try:
        steps = plan_present(WANT, have)
    except LabError:
        return
    if any("sfdisk" in step.argv for step in steps):
        assert not have.content and not have.partitions
