# SPDX-License-Identifier: GPL-3.0-or-later
"""Causes and next steps of what does not come up."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import cxl_diagnose as diagnose
from ansible.module_utils.cxl_lab.cxl_list import parse_memdevs
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner, fixture

MEMDEVS = parse_memdevs(fixture("cxl_list_memdevs"))
FAILED = "cxl region: create_region: region0: failed to commit decode: No such device or address\n"
LOG = """[    1.0] Linux version 6.12
[    9.1] cxl_mem mem2: endpoint2 failed probe
[    9.2] cxl_region region0: Failed to synchronize CPU cache state
[    9.3] EXT4-fs mounted
"""


def test_kernel_log_keeps_what_is_about_cxl():
    assert diagnose.kernel_log(FakeRunner({"dmesg": LOG})) == LOG.splitlines()[1:3]
    assert diagnose.kernel_log(FakeRunner({"dmesg": Result(1, "", "Operation not permitted")})) == []


def test_the_hypervisor_bit_is_named():
    error = LabError("region over memdev 0x1", "it failed", cmd=["cxl", "create-region"], rc=1, stderr=FAILED)
    better = diagnose.explain_failed_create(error, LOG.splitlines())
    assert "hypervisor" in better.next_step
    assert (better.rc, better.cmd) == (1, ["cxl", "create-region"])
    assert "failed to commit decode" in better.stderr and "CPU cache state" in better.stderr


def test_a_region_at_a_higher_address_is_named():
    stderr = (
        "cxl region: create_region: region0: failed to set target0 to mem3\ncxl region: cmd_create_region: created 0 regions\n"
    )
    error = LabError("region", "cxl region: cmd_create_region: created 0 regions", stderr=stderr)
    better = diagnose.explain_failed_create(error, [], ["region1"])
    assert better.problem == "region0: failed to set target0 to mem3"
    assert "region1 is at a higher one" in better.next_step
    assert diagnose.explain_failed_create(error, [], []).next_step == ""


def test_another_failure_keeps_its_own_words():
    error = LabError("region", "no free decoder", stderr="could not get a free decoder for mem1")
    assert diagnose.explain_failed_create(error, []).next_step == ""


def test_missing_memdev_lists_what_is_there():
    error = diagnose.explain_missing_memdev(0xBAD, MEMDEVS, [], [])
    assert "no memdev carries this serial number" in str(error)
    assert "mem1 0xc0de0001" in error.observed


def test_memdev_on_pci_that_did_not_come_up():
    error = diagnose.explain_missing_memdev(0xBAD, [], ["0000:0e:00.0"], LOG.splitlines()[1:2])
    assert "0000:0e:00.0 on PCI brought up no memdev" in str(error) and "256 MiB" in str(error)
    assert "endpoint2 failed probe" in error.stderr


@pytest.mark.parametrize(
    ("log", "step"),
    [(["cxl_mem mem2: endpoint2 failed probe"], "shut the guest down"), (["cxl_pci: odd capacity"], "256 MiB")],
)
def test_memdev_that_the_kernel_did_not_accept(log, step):
    error = diagnose.explain_missing_memdev(3235774467, MEMDEVS, [], log)
    assert "mem2 is there, but the kernel did not take it" in str(error) and step in str(error)


def test_pci_functions_without_a_memdev(tmp_path: Path):
    functions = [("0000:0e:00.0", "0x050210", "mem0"), ("0000:0f:00.0", "0x050210", ""), ("0000:00:02.0", "0x020000", "")]
    for name, code, memdev in functions:
        (tmp_path / name / memdev).mkdir(parents=True)
        (tmp_path / name / "class").write_text(f"{code}\n")
    assert diagnose.idle_pci_functions(tmp_path) == ["0000:0f:00.0"]
