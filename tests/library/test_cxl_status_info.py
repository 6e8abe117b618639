# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_status_info and cxl_diagnostics as Ansible runs them, on hosts that have everything and on hosts that have nothing."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import status
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_diagnostics, cxl_status_info
from fakes import FakeRunner, fixture, run_module

DAX = {"chardev": "dax0.0", "size": 1, "mode": "system-ram", "online_memblocks": 2, "total_memblocks": 2, "movable": True}
WHOLE = {
    "cxl list -M": json.dumps(fixture("cxl_list_memdevs")),
    "cxl list -R": json.dumps(fixture("cxl_list_regions")),
    "ndctl list": json.dumps(fixture("ndctl_list")),
    "daxctl list": json.dumps([DAX]),
}


class Bare(FakeRunner):
    """A host without any of the tools."""

    def run(self, argv, *, stdin="", timeout=120):
        raise LabError(argv[0], "command is not installed on this host", "install the package that carries it", cmd=argv)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    def run(module, runner, **args):
        monkeypatch.setattr(module, "HostRunner", lambda: runner)
        if module is cxl_diagnostics or "hosts" in args:
            return run_module(module, monkeypatch, capsys, **args)
        return run_module(module, monkeypatch, capsys, runtime_dir=str(tmp_path), **args)

    return run


def test_a_host_with_everything_but_the_daemon(call):
    found = call(cxl_status_info, FakeRunner(WHOLE))["status"]
    assert [memdev["serial"] for memdev in found["memdevs"]] == ["0xc0de0001", "0xc0de0002", "0xc0de0003"]
    assert found["regions"][0]["name"] == "region3" and found["namespaces"][0]["name"] == "cbd0"
    assert found["dax"][0]["online"] == "online_movable" and found["daemon"]["running"] is False
    assert found["problems"] == [] and found["uptime_s"] >= 0


def test_a_host_without_tools_tells_why(call):
    found = call(cxl_status_info, Bare({}))["status"]
    assert found["memdevs"] is None and found["namespaces"] is None
    assert any(problem.startswith("cxl: command is not installed") for problem in found["problems"])


def test_a_host_that_is_a_process_has_no_devices_and_nothing_is_unknown_of_it(call):
    for runner in (Bare({}), FakeRunner(WHOLE)):
        found = call(cxl_status_info, runner, devices=False)["status"]
        assert found["problems"] == []
        assert status.table({"a": found}, [])[1].split()[5:9] == ["0", "-", "-", "-"]


def test_the_table_has_a_row_for_each_host_and_each_machine(call):
    whole = call(cxl_status_info, FakeRunner(WHOLE))["status"]
    bare = call(cxl_status_info, Bare({}))["status"]
    machines = [{"name": "node1", "state": "running", "accel": "tcg"}, {"name": "node9", "state": "off"}]
    lines = call(cxl_status_info, Bare({}), hosts={"node1": whole, "node2": bare, "node3": {}}, machines=machines)["table"]
    assert [line.split()[0] for line in lines] == ["host", "node1", "node2", "node3", "node9"]
    assert "running tcg" in lines[1] and "pmem 512M" in lines[1] and "cbd0 devdax" in lines[1]
    assert "dax0.0 system-ram online_movable" in lines[1] and "1 not accepted" in lines[1]
    assert "?" in lines[3] and lines[4].split()[1] == "off"
    assert len({line.index(word) for line, word in zip(lines[:2], ("machine", "running"))}) == 1


def test_a_switched_fabric_in_the_table(call):
    lists = {command: json.dumps(rows) for command, rows in fixture("switched_lists").items()}
    runner = FakeRunner({"": "[]", **lists})
    found = call(cxl_status_info, runner)["status"]
    row = status.table({"node1": found}, [])[1]
    assert "7 1792M" in row and "pmem 512M x2, pmem 1G x4, ram 256M" in row and "not accepted" not in row
    assert [len(region["memdevs"]) for region in found["regions"]] == [2, 4, 1] and found["problems"] == []


def test_the_daemon_and_its_transports():
    row = {"uptime_s": 90061, "kernel": "6.12", "memdevs": [], "regions": [], "namespaces": [], "dax": []}
    lines = status.table({"a": {**row, "daemon": {"running": True, "version": "0.1", "transports": ["p", "q"]}}}, [])
    assert lines[1].split() == ["a", "-", "1d", "1h", "6.12", "0", "-", "-", "-", "0.1", "p,", "q"]


def test_an_archive_has_what_worked_and_what_did_not(call, tmp_path):
    runner = FakeRunner({"": "", "dmesg": "hello\n", "cxl list": Result(1, "", "broken"), **{"lspci": Result(0, "x" * 10, "")}})
    dest = tmp_path / "new" / "a.tar.gz"
    result = call(cxl_diagnostics, runner, dest=str(dest), name="node1.example.org", runtime_dir=str(tmp_path))
    assert result["changed"] and dest.stat().st_mode & 0o777 == 0o600
    with tarfile.open(dest) as tar:
        texts = {entry.name: tar.extractfile(entry).read().decode() for entry in tar}
    assert sorted(texts) == [f"node1.example.org/{name}" for name in result["names"]]
    assert texts["node1.example.org/dmesg.txt"] == "hello\n" and '"stderr": "broken"' in texts["node1.example.org/cxl.json"]
    assert "iomem.txt" in result["names"] and "daemon-state.json" not in result["names"]


def test_the_machines_of_a_lab_whose_libvirt_is_gone(call, tmp_path, monkeypatch):
    monkeypatch.setattr(cxl_diagnostics, "LibvirtHost", None)
    host = tmp_path / "lab/hosts/node1"
    host.mkdir(parents=True)
    (host / "serial.log").write_text("Kernel panic", encoding="utf-8")
    (host / "ssh_host_ed25519_key").write_text("secret", encoding="utf-8")
    args = {"dest": str(tmp_path / "a.tar.gz"), "name": "machines", "lab": "demo", "lab_dir": str(tmp_path / "lab")}
    runner = FakeRunner({"": "said\n"})
    names = call(cxl_diagnostics, runner, **args)["names"]
    assert "node1/serial.log" in names and "node1/domain.xml" in names
    assert "virsh -q -c qemu:///system qemu-monitor-command cxl-lab.demo.node1 --hmp info mtree" in runner.ran
    assert b"secret" not in b"".join(member for member in contents(Path(args["dest"])))


def contents(archive: Path):
    with tarfile.open(archive) as tar:
        return [tar.extractfile(entry).read() for entry in tar]


def test_check_mode_writes_nothing(call, tmp_path):
    result = call(cxl_diagnostics, Bare({}), dest=str(tmp_path / "a.tar.gz"), name="a", check=True)
    assert "dmesg.txt" in result["names"] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../a", "", ".", "a/b"])
def test_nothing_leads_out_of_the_archive(call, tmp_path, name):
    assert "is no name of a folder" in call(cxl_diagnostics, Bare({}), dest=str(tmp_path / "a"), name=name)["msg"]


def test_a_place_that_cannot_be_written(call, tmp_path):
    (tmp_path / "file").touch()
    result = call(cxl_diagnostics, Bare({}), dest=str(tmp_path / "file/a.tar.gz"), name="a")
    assert "cannot be written" in result["msg"] and "choose another place" in result["msg"]
