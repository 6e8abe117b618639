# SPDX-License-Identifier: GPL-3.0-or-later
"""QEMU arguments of a user beside those of the lab."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.topology.model import parse_topology


def told(words, memory=True) -> list[str]:
    data = {"hosts": [{"name": "h", "qemu_arguments": words}]}
    if memory:
        data["memories"] = [{"name": "m", "size": "256M"}]
    try:
        parse_topology(data)
    except LabError as error:
        return str(error).split("\n  - ")[1:]
    return []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-m", "1G"], "-m takes the place of memory; use memory"),
        (["--smp", "8"], "--smp takes the place of cpus; use cpus"),
        (["-S"], "-S keeps the guest from starting; leave it out; gdb_port lets a debugger stop it"),
        (["-preconfig"], "-preconfig keeps the guest from starting; leave it out"),
        (["-d", "int", "-incoming", "defer"], "-incoming keeps the guest from starting; leave it out"),
        (["-daemonize"], "-daemonize takes QEMU away from libvirt; leave it out"),
        (
            ["-cpu", "max"],
            "-cpu max lets the guest see that it is virtual, and no stock kernel makes a region then; write max,hypervisor=off",
        ),
    ],
)
def test_what_takes_back_what_the_lab_gave(words, problem):
    assert told(words) == [f"hosts[0].qemu_arguments: {problem}"]


@pytest.mark.parametrize(
    "words",
    [
        ["-cpu", "max,hypervisor=off"],
        ["-cpu", "max,-hypervisor"],
        ["-device", "edu,bus=pcie.0"],
        ["-snapshot", "-d", "int"],
        ["-object", "m"],
    ],
)
def test_what_goes_with_the_lab(words):
    assert told(words) == []


def test_a_host_without_cxl_memory_may_know_that_it_is_virtual():
    assert told(["-cpu", "max"], memory=False) == []


def test_several_problems_at_once():
    assert len(told(["-S", "-m", "1G", "-cpu", "max"])) == 3
