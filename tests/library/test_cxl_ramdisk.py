# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_ramdisk as Ansible runs it."""

from __future__ import annotations

from ansible.module_utils.cxl_lab import ramdisk
from ansible.module_utils.cxl_lab.ramdisk import RamdiskState
from ansible.modules import cxl_ramdisk
from fakes import FakeRunner, run_module

SIZE = 512 << 20


class Host(FakeRunner):
    """RAM disks come and go with the driver, and partitions with sfdisk."""

    def __init__(self, monkeypatch) -> None:
        self.state = RamdiskState((), 0, (), "")
        super().__init__(
            {
                "modprobe brd": lambda: self.becomes(RamdiskState(("ram0",), SIZE, (), "")),
                "sfdisk": lambda: self.becomes(RamdiskState(("ram0",), SIZE, ("ram0p1",), "gpt")),
                "modprobe -r": lambda: self.becomes(RamdiskState((), 0, (), "")),
            }
        )
        monkeypatch.setattr(cxl_ramdisk, "HostRunner", lambda: self)
        monkeypatch.setattr(ramdisk, "observe", lambda runner, name: self.state)

    def becomes(self, state: RamdiskState) -> str:
        self.state = state
        return ""


def test_make_then_nothing_then_remove(monkeypatch, capsys):
    host = Host(monkeypatch)
    assert run_module(cxl_ramdisk, monkeypatch, capsys, check=True)["changed"] and host.ran == []
    result = run_module(cxl_ramdisk, monkeypatch, capsys)
    assert result["changed"] and result["ramdisk"]["device"] == "/dev/ram0p1"
    assert run_module(cxl_ramdisk, monkeypatch, capsys)["changed"] is False
    assert run_module(cxl_ramdisk, monkeypatch, capsys, state="absent")["ramdisk"] is None
    assert run_module(cxl_ramdisk, monkeypatch, capsys, state="absent")["changed"] is False


def test_another_size_is_refused(monkeypatch, capsys):
    host = Host(monkeypatch)
    host.state = RamdiskState(("ram0",), 16 << 20, (), "")
    result = run_module(cxl_ramdisk, monkeypatch, capsys)
    assert result["failed"] and "modprobe -r brd" in result["msg"] and host.ran == []
