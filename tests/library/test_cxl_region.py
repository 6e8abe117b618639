# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_region and cxl_region_info as Ansible runs them, on a host whose commands answer from recordings."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.cxl_lab.boot_regions import BootRegions
from ansible.module_utils.cxl_lab.committed import Committed
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_region, cxl_region_info
from fakes import FakeRunner, fixture, run_module


class Host(FakeRunner):
    """A host with one shared memdev; creating a region makes it appear."""

    def __init__(self, region: bool = False, namespaces: bool = False) -> None:
        self.region = region
        super().__init__(
            {
                "cxl list -M": json.dumps(fixture("cxl_list_memdevs")),
                "cxl list -D -d root": json.dumps(fixture("cxl_list_decoders")),
                "cxl list -R": lambda: json.dumps(fixture("cxl_list_regions")) if self.region else "",
                "ndctl list": json.dumps(fixture("ndctl_list")) if namespaces else "",
                "cxl create-region": lambda: self.becomes(True),
                "cxl disable-region": "",
                "cxl destroy-region": lambda: self.becomes(False),
                "dmesg": "[ 1.0] cxl_region region0: Failed to synchronize CPU cache state\n",
            }
        )

    def becomes(self, region: bool) -> str:
        self.region = region
        return ""


@pytest.fixture
def root(tmp_path):
    """The root folder of the host, with the folder of systemd's units."""
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys, root):
    for module in (cxl_region, cxl_region_info):
        monkeypatch.setattr(module, "BootRegions", lambda: BootRegions(root))
    monkeypatch.setattr(cxl_region, "Committed", lambda: Committed(root))

    def run(module, host, **args):
        monkeypatch.setattr(module, "HostRunner", lambda: host)
        return run_module(module, monkeypatch, capsys, **args)

    return run


def test_create_then_nothing(call):
    host = Host()
    result = call(cxl_region, host, serial="0xc0de0001")
    assert result["changed"] and result["region"]["name"] == "region3"
    assert result["diff"]["before"] == {"region": None}
    assert host.changing() == ["cxl create-region -d decoder0.0 -t pmem -m mem1"]
    assert call(cxl_region, host, serial=str(0xC0DE0001))["changed"] is False
    assert len(host.changing()) == 1


def test_check_mode_changes_nothing(call, root):
    host = Host()
    result = call(cxl_region, host, serial="0xc0de0001", check=True)
    assert result["changed"] and result["steps"] == [
        "create a pmem region over mem1 under decoder0.0",
        "have boot make the region again",
    ]
    assert host.changing() == []
    assert not (root / "etc/cxl-lab").exists()


def test_absent(call):
    host = Host(region=True)
    assert call(cxl_region, host, serial="0xc0de0001", state="absent")["region"] is None
    assert host.changing() == ["cxl disable-region region3", "cxl destroy-region region3"]
    assert call(cxl_region, host, serial="0xc0de0001", state="absent")["changed"] is False
    assert call(cxl_region, Host(), serial="0xdead", state="absent")["changed"] is False


def test_absent_under_a_namespace_fails(call):
    host = Host(region=True, namespaces=True)
    result = call(cxl_region, host, serial="0xc0de0001", state="absent")
    assert result["failed"] and "destroy the namespace first" in result["msg"]
    assert host.changing() == []


def test_hypervisor_bit(call):
    host = Host()
    host.answers["cxl create-region"] = Result(1, "", "cxl region: region0: failed to commit decode: No such device or address\n")
    result = call(cxl_region, host, serial="0xc0de0001")
    assert result["failed"] and "hypervisor" in result["msg"] and result["rc"] == 1
    assert "CPU cache state" in result["stderr"]


def test_success_is_what_is_read_back(call):
    host = Host()
    host.answers["cxl create-region"] = ""
    result = call(cxl_region, host, serial="0xc0de0001")
    assert result["failed"] and "not in service after it was made" in result["msg"]


def test_waits_for_a_memdev_that_comes_late(call):
    host = Host()
    answers = ["", "", json.dumps(fixture("cxl_list_memdevs"))]
    host.answers["cxl list -M"] = lambda: answers.pop(0) if len(answers) > 1 else answers[0]
    result = call(cxl_region, host, serial="0xc0de0001", wait_timeout=5, wait_sleep=0.01)
    assert result["changed"]


def test_memdev_that_never_comes(call):
    result = call(cxl_region, Host(), serial="0xdead", wait=False)
    assert result["failed"] and "memdev 0xdead: no memdev carries this serial number" in result["msg"]
    assert "mem1 0xc0de0001" in result["observed"]


def test_info_of_all_and_of_one(call):
    everything = call(cxl_region_info, Host(region=True))
    assert len(everything["memdevs"]) == 3 and everything["decoders"][0]["resource"] == "0x190000000"
    one = call(cxl_region_info, Host(region=True), serial="0xc0de0002")
    assert [memdev["name"] for memdev in one["memdevs"]] == ["mem0"] and one["regions"] == []


def test_boot_makes_the_region_again_unless_told_otherwise(call):
    host = Host()
    made = call(cxl_region, host, serial="0xc0de0001")
    assert made["region"]["boot"] and made["steps"][1:] == ["have boot make the region again"]
    assert [region["boot"] for region in call(cxl_region_info, host)["regions"]] == [True]
    told = call(cxl_region, host, serial="0xc0de0001", boot=False)
    assert told["changed"] and told["steps"] == ["have boot forget the region"] and not told["region"]["boot"]
    assert call(cxl_region, host, serial="0xc0de0001", boot=False)["changed"] is False
    assert call(cxl_region, host, serial="0xc0de0001")["steps"] == ["have boot make the region again"]


def test_boot_forgets_a_region_that_was_taken_away(call):
    host = Host()
    call(cxl_region, host, serial="0xc0de0001")
    assert "have boot forget the region" in call(cxl_region, host, serial="0xc0de0001", state="absent")["steps"]
    host.region = True
    assert call(cxl_region, host, serial="0xc0de0001", boot=False)["changed"] is False


def test_a_host_without_systemd_is_told_so(call, root):
    (root / "etc/systemd/system").rmdir()
    result = call(cxl_region, Host(), serial="0xc0de0001")
    assert result["failed"] and "set boot: false" in result["msg"]
    assert call(cxl_region, Host(region=True), serial="0xc0de0001", boot=False)["changed"] is False


@pytest.fixture
def machine(root):
    """A machine of a lab: its QEMU has a number."""
    life = root / "sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw"
    life.parent.mkdir(parents=True)
    life.write_bytes(b"one")
    return Committed(root)


def test_a_region_is_remembered_and_may_come_again(call, machine):
    host = Host()
    for state in ("present", "present", "absent", "present"):
        assert "failed" not in call(cxl_region, host, serial="0xc0de0001", state=state)
    assert [(one.serial, one.base, one.size) for one in machine.mappings()] == [(0xC0DE0001, 6710886400, 536870912)]


def test_a_region_that_would_show_the_bytes_of_another_is_taken_away_again(call, machine, root):
    machine.remember([0xC0DE0001], 6710886400, 1 << 28, 1 << 28)
    host = Host()
    result = call(cxl_region, host, serial="0xc0de0001")
    assert result["failed"] and "switch the host off and on" in result["msg"]
    assert host.changing()[-2:] == ["cxl disable-region region3", "cxl destroy-region region3"]
    assert not host.region and not (root / "etc/cxl-lab").exists()


def test_a_region_that_is_taken_away_again_takes_the_namespaces_of_its_labels_along(call, machine):
    """It said "destroy the namespace first", left the region there, and hid why it was refused."""
    machine.remember([0xC0DE0001], 6710886400, 1 << 28, 1 << 28)
    host = Host(namespaces=True)
    host.answers["ndctl disable-namespace"] = ""
    result = call(cxl_region, host, serial="0xc0de0001")
    assert result["failed"] and "QEMU still shows memory" in result["msg"] and not host.region
    assert any(line.startswith("ndctl disable-namespace") for line in host.changing())


def test_an_error_is_not_hidden_by_lists_that_cannot_be_had(call):
    host = Host(region=True)
    host.answers["cxl destroy-region"] = Result(1, "", "cxl region: region3: busy\n")
    assert "busy" in call(cxl_region, host, serial="0xc0de0001", state="absent")["msg"]
    host = Host()

    def no_room() -> Result:
        host.answers["cxl list -D -d root"] = "{"
        return Result(1, "", "cxl region: create_region: region0: no room\n")

    host.answers["cxl create-region"] = no_room
    assert "no room" in call(cxl_region, host, serial="0xc0de0001")["msg"]


def test_check_mode_remembers_nothing(call, machine):
    call(cxl_region, Host(region=True), serial="0xc0de0001", check=True)
    assert machine.mappings() == []


def test_a_refused_region_is_told_of_those_above_its_window(call):
    """As on a host whose bridge had a region in its second window when one in the first was asked for."""
    host = Host()
    stderr = (
        "cxl region: create_region: region0: failed to set target0 to mem1\ncxl region: cmd_create_region: created 0 regions\n"
    )
    host.answers["cxl create-region"] = Result(1, "", stderr)
    high = {**fixture("cxl_list_regions")[0], "region": "region7", "resource": 1 << 45, "mappings": []}
    host.answers["cxl list -R"] = json.dumps([high])
    host.answers["dmesg"] = ""
    result = call(cxl_region, host, serial="0xc0de0001")
    assert result["failed"] and "failed to set target0 to mem1" in result["msg"] and "region7 is at a higher one" in result["msg"]
