# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_verify as Ansible runs it; mounting is replaced, the tree is real, in an ordinary folder."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import verify
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.modules import cxl_verify
from fakes import FakeRunner, run_module


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
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def call(self, method):
            assert method == "cbd.transport.list"
            return [{"name": "pool0", "uuid": "u-0"}, {"name": "pool1", "uuid": "u-1"}]

    monkeypatch.setattr(cxl_verify, "DatapathClient", Client)
    assert cxl_verify.transport_uuid("pool1") == "u-1"
    assert cxl_verify.transport_uuid("") == ""
    with pytest.raises(LabError, match="transport pool9: is not registered on this host"):
        cxl_verify.transport_uuid("pool9")
