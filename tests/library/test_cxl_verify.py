# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_verify as Ansible runs it; mounting is replaced, the tree is real, in an ordinary folder."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.cxl_lab import verify
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.modules import cxl_verify
from fakes import FakeRunner, run_module
from nbd_server import serve


class Device:
    """A device whose file system is a folder: mounted or not, made or not."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        self.made = self.mounted = False
        self.path = folder / "device"
        self.path.touch()
        monkeypatch.setattr(cxl_verify, "HostRunner", lambda: FakeRunner({}))
        monkeypatch.setattr(verify, "is_mounted", lambda device, mountpoint: self.mounted)
        monkeypatch.setattr(verify, "observe_needs_filesystem", lambda runner, device: not self.made)
        monkeypatch.setattr(verify, "make_filesystem", self.make)
        monkeypatch.setattr(verify, "mount", lambda *args: self.becomes(True))
        monkeypatch.setattr(verify, "unmount", lambda *args: self.becomes(False))
        monkeypatch.setattr(verify, "filesystem_uuid", lambda *args: "fs")
        monkeypatch.setattr(verify, "mounted_read_only", self.read_only)

    def make(self, runner, device):
        self.made = True
        return verify.Measured("make xfs", 0, 0, 0.1)

    def becomes(self, mounted: bool) -> None:
        self.mounted = mounted

    @contextmanager
    def read_only(self, runner, device):
        yield self.folder


@pytest.fixture
def device(tmp_path, monkeypatch):
    return Device(tmp_path, monkeypatch)


@pytest.fixture
def call(device, monkeypatch, capsys):
    def run(action, **args):
        return run_module(
            cxl_verify, monkeypatch, capsys, action=action, device=str(device.path), mountpoint=str(device.folder), **args
        )

    return run


def test_write_compare_and_again(call, device):
    written = call("write", size="200K")
    assert written["changed"] and written["bytes"] == 200 << 10 and len(written["report"]) == 2
    assert not device.mounted, "everything has to be on the device before the other host looks"
    there = call("compare", read_only=True, manifest=written["manifest"])
    assert there["changed"] is False and not device.mounted
    here = call("compare", manifest=written["manifest"])
    assert here["changed"] and device.mounted
    again = call("write", size="200K")
    assert (again["changed"], again["manifest"], device.mounted) == (False, written["manifest"], True)
    assert call("compare")["changed"] is False


def test_rerun_writes_another_tree(call, device):
    first = call("write", size="200K")
    second = call("write", size="200K", rerun=True)
    assert second["changed"] and second["manifest"] != first["manifest"] and not device.mounted


def test_after_a_reboot_it_is_only_mounted(call, device):
    written = call("write", size="200K")
    result = call("write", size="200K")
    assert result["changed"] and result["manifest"] == written["manifest"] and device.mounted


def test_a_bad_file_fails_and_is_named(call, device):
    call("write", size="200K")
    victim = max((device.folder / verify.FOLDER).rglob("file*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:-1] + b"!")
    result = call("compare")
    assert result["failed"] and victim.name in result["msg"] and len(result["observed"]) == 1


def test_check_mode_changes_nothing(call, device):
    assert call("write", check=True)["changed"] and not device.made
    device.path.unlink()
    assert call("write", check=True)["changed"]
    assert call("compare", check=True)["changed"] is False


def test_the_uuid_of_a_transport_comes_from_the_daemon(monkeypatch):
    class Client:
        def __init__(self, runtime_dir):
            assert runtime_dir == "/run/node1"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def call(self, method):
            assert method == "cbd.transport.list"
            return [{"name": "pool0", "uuid": "u-0"}, {"name": "pool1", "uuid": "u-1"}]

    monkeypatch.setattr(cxl_verify, "DatapathClient", Client)
    assert cxl_verify.transport_uuid("pool1", "/run/node1") == "u-1"
    assert cxl_verify.transport_uuid("", "/run/node1") == ""
    with pytest.raises(LabError, match="transport pool9: is not registered on this host"):
        cxl_verify.transport_uuid("pool9", "/run/node1")


@pytest.fixture
def over_nbd(tmp_path, monkeypatch, capsys):
    """Runs the module on a blank disk of 4 MiB that is served over NBD."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(4 << 20)

    def run(action, check=False, device=f"nbd+unix:///?socket={tmp_path}/cbd0.sock", **args):
        return run_module(cxl_verify, monkeypatch, capsys, check=check, action=action, device=str(device), host="node2", **args)

    with serve(disk, tmp_path / "cbd0.sock"):
        yield SimpleNamespace(run=run, disk=disk)


def test_a_pattern_over_nbd_written_compared_and_again(over_nbd):
    planned = over_nbd.run("write", size="2M", check=True)
    assert planned["changed"] is True and planned["steps"] == ["write a pattern of 2M"]
    assert not any(over_nbd.disk.read_bytes()), "check mode wrote"
    written = over_nbd.run("write", size="2M")
    assert (written["changed"], written["written"], written["pattern"]) == (True, True, True)
    assert (written["files"], written["bytes"], len(written["report"])) == (0, 2 << 20, 1)
    assert "cbd0.sock on node2" in written["report"][0] and len(written["report"][0]) == len(written["header"])
    there = over_nbd.run("compare", device=over_nbd.disk, pattern=True, read_only=True, manifest=written["manifest"])
    here = over_nbd.run("compare", manifest=written["manifest"])
    assert there["changed"] is here["changed"] is False and here["verdict"] == "All 2.0 MiB are right."
    assert [row["what"] for row in there["measured"] + here["measured"]] == ["compare", "read back"]
    again = over_nbd.run("write", size="2M")
    assert (again["changed"], again["written"], again["manifest"]) == (False, False, written["manifest"])
    assert over_nbd.run("write", size="2M", check=True)["changed"] is False
    for args in ({"size": "1M"}, {"size": "1M", "rerun": True}):
        assert over_nbd.run("write", **args)["manifest"] != written["manifest"]


def test_a_bad_byte_of_the_pattern_is_found_in_both_places(over_nbd):
    manifest = over_nbd.run("write", size="2M")["manifest"]
    with over_nbd.disk.open("r+b") as disk:
        disk.seek((1 << 20) + 5)
        byte = disk.read(1)
        disk.seek(-1, 1)
        disk.write(bytes([byte[0] ^ 1]))
    for args in ({"device": over_nbd.disk, "pattern": True}, {}):
        result = over_nbd.run("compare", manifest=manifest, **args)
        assert result["failed"] is True and "differs from the pattern: 4096 bytes at 0x100000; look at" in result["msg"]
        assert result["observed"] == ["4096 bytes at 0x100000"]


def test_a_pattern_takes_no_place_of_other_data(over_nbd):
    assert "has 4M, the pattern 8M; lower the size" in over_nbd.run("write", size="8M")["msg"]
    over_nbd.disk.write_bytes(bytes(8192) + b"somebody's" + bytes((4 << 20) - 8202))
    before = over_nbd.disk.read_bytes()
    for args in ({}, {"rerun": True}, {"check": True}):
        result = over_nbd.run("write", size="1M", **args)
        assert result["failed"] is True and "carries something that is not ours" in result["msg"]
    assert over_nbd.disk.read_bytes() == before


def test_check_mode_before_the_device_is_there(over_nbd, tmp_path):
    uri = f"nbd+unix:///?socket={tmp_path}/later.sock"
    assert over_nbd.run("write", check=True, device=uri)["steps"] == ["write a pattern of 32M"]
    assert over_nbd.run("compare", check=True, device=uri)["changed"] is False
    assert "see that the blkdev runs" in over_nbd.run("write", device=uri)["msg"]


def test_a_pattern_knows_the_transport_below(over_nbd, monkeypatch):
    monkeypatch.setattr(cxl_verify, "transport_uuid", lambda name, runtime_dir: f"{len(name)}-{len(runtime_dir)}")
    over_nbd.run("write", size="64K", transport="pool0", runtime_dir="/run/node2")
    assert b"# transport: 5-10\n" in over_nbd.disk.read_bytes()[:4096]
