# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_device, cxl_error and their twins as Ansible runs them, on a pretended lab."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from ansible.module_utils import device_module
from ansible.module_utils.cxl_lab.runner import Result
from ansible.module_utils.cxl_lab.topology.plan import Seen
from ansible.modules import cxl_device, cxl_device_info, cxl_error, cxl_error_info
from fakes import fixture, run_module
from live_qemu import Guest, LiveQemu

LAB = {"lab": "demo", "host": "node1"}
HOT = {"name": "hot", "size": "256M", "parent": "b"}
TRACE = """# tracer: nop
   kworker/0:1-12  [000] .....  12.3: cxl_dram: memdev=mem0 host=0000:0e:00.0 serial=7 log=Informational : dpa=0 bank=3
   kworker/0:1-12  [000] .....  12.4: cxl_dram: memdev=mem5 host=0000:0f:00.0 serial=8 log=Fatal : dpa=0
"""


class Libvirt:
    state = "running"
    spec = {"memories": [{"name": "pool0"}, {"name": "p0", "pool": "store"}]}

    def __init__(self, uri: str) -> None: ...

    def seen(self, lab: str) -> dict[str, Seen]:
        return {"node1": Seen(self.state, self.spec, 4022)} if lab == "demo" else {}

    def emulator_user(self) -> SimpleNamespace:
        return SimpleNamespace(uid=os.getuid(), gid=os.getgid())


class ErrorQemu(LiveQemu):
    """A QEMU that can play errors, too."""

    def execute(self, command, arguments):
        if command.startswith("cxl-inject"):
            self.commands.append(command)
            return {}
        if command == "query-qmp-schema":
            return fixture("qmp_schema_cxl")
        return super().execute(command, arguments)


@pytest.fixture
def lab(monkeypatch, capsys, tmp_path):
    qemu = ErrorQemu()
    guest = Guest(qemu)
    (tmp_path / "shm").mkdir()
    (tmp_path / "lab/hosts/node1").mkdir(parents=True)
    guest.poison, guest.traces = [], False
    guest.answers |= {
        "test -d": lambda: Result(0 if guest.traces else 1, "", ""),
        "mount -t tracefs": lambda: setattr(guest, "traces", True) or "",
        "mkdir": "",
        "rmdir": "",
        "tee": "",
        "cat": TRACE,
        "cxl list -M -m": lambda: json.dumps([{"memdev": "mem0", "media_errors": guest.poison}]),
    }
    monkeypatch.setattr(device_module, "LibvirtHost", Libvirt)
    monkeypatch.setattr(device_module.LiveLab, "monitor", lambda self, host: qemu if self.check_running(host) else None)
    monkeypatch.setattr(device_module.LiveLab, "guest", lambda self, host: guest)
    paths = device_module.LabPaths
    monkeypatch.setattr(device_module, "LabPaths", lambda name, root: paths(name, root, shared=tmp_path / "shm"))

    def call(module, **args):
        return run_module(module, monkeypatch, capsys, lab_dir=str(tmp_path / "lab"), **args)

    return SimpleNamespace(call=call, qemu=qemu, guest=guest, folder=tmp_path)


def test_a_device_comes_once_and_goes_once(lab):
    result = lab.call(cxl_device, **LAB, devices=[HOT])
    assert result["changed"] and result["devices"][0]["memdev"] == "mem0" and len(result["steps"]) == 3
    assert (lab.folder / "shm/cxl-lab.demo.hot").stat().st_size == 256 << 20
    assert (lab.folder / "lab/hosts/node1/hot.lsa").stat().st_size == 1 << 20
    assert lab.call(cxl_device, **LAB, devices=[HOT])["changed"] is False
    info = lab.call(cxl_device_info, **LAB)
    assert [device["name"] for device in info["devices"]] == ["hot"]
    assert info["free_ports"] == ["cxl-rp.b.1", "cxl-rp.b.2"] and info["leaked"] == []
    gone = lab.call(cxl_device, **LAB, devices=[{"name": "hot"}], state="absent")
    assert gone["changed"] and gone["devices"] == []
    assert lab.call(cxl_device, **LAB, devices=[{"name": "hot"}], state="absent")["changed"] is False
    assert (lab.folder / "shm/cxl-lab.demo.hot").exists(), "its data outlives it"


def test_check_mode_changes_nothing(lab):
    result = lab.call(cxl_device, **LAB, devices=[HOT], check=True)
    assert result["changed"] and lab.qemu.commands == [] and list((lab.folder / "shm").iterdir()) == []
    lab.call(cxl_device, **LAB, devices=[HOT])
    result = lab.call(cxl_device, **LAB, devices=[{"name": "hot"}], state="absent", check=True)
    assert result["steps"] == ["unplug hot"] and "cxl-dev.hot" in lab.qemu.devices


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"devices": [{"name": "pool0", "size": "256M"}]}, "belongs to the topology"),
        ({"devices": [{**HOT, "name": "pool0"}], "state": "absent"}, "belongs to the topology"),
        ({"devices": [HOT], "host": "node9"}, "lab demo has no machine of this name"),
        ({"devices": [HOT], "lab": "other"}, "it has none: it is not built"),
        ({"devices": [{**HOT, "size": "300M"}]}, "no multiple of 256M"),
        ({"devices": [{**HOT, "name": "store"}]}, "belongs to the topology"),
        # Where one of them cannot be, none comes.
        ({"devices": [HOT, {**HOT, "name": "more", "port": 9}]}, "port 9 of b is not there"),
        ({"devices": [{**HOT, "port": 1}, {**HOT, "name": "more", "port": 1}]}, "port 1 of b is taken"),
        ({"devices": [HOT, {**HOT, "size": "512M"}]}, "is attached with persistent 256M instead of 512M"),
        ({"devices": [{**HOT, "serial": "7"}, {**HOT, "name": "more", "serial": "7"}]}, "hot has the serial number 0x7"),
        ({"devices": [{**HOT, "name": f"n{n}"} for n in range(9)]}, "root ports of b are taken"),
        ({"devices": [HOT], "wait_timeout": "nan"}, "wait_timeout: nan is no time to wait; give seconds, 0 to "),
        ({"devices": [HOT], "wait_sleep": -1}, "wait_sleep: -1.0 is no time to wait; "),
    ],
)
def test_refusals_before_anything_happens(lab, args, words):
    result = lab.call(cxl_device, **{**LAB, **args})
    assert result["failed"] and words in result["msg"]
    assert lab.qemu.commands == [] and list((lab.folder / "shm").iterdir()) == []


def test_a_size_that_no_file_has_leaves_nothing_in_qemu(lab):
    result = lab.call(cxl_device, **LAB, devices=[HOT, {**HOT, "name": "more", "size": "999999999999T"}])
    assert result["failed"] and "more cannot be made 999999999999T large" in result["msg"] and lab.qemu.commands == []


def test_several_devices_at_once(lab):
    two = [HOT, {**HOT, "name": "more"}]
    planned = lab.call(cxl_device, **LAB, devices=two, check=True)
    result = lab.call(cxl_device, **LAB, devices=two)
    assert result["steps"] == planned["steps"] and len({device["port"] for device in result["devices"]}) == 2
    assert len({device["serial"] for device in result["devices"]}) == 2
    assert lab.call(cxl_device, **LAB, devices=two)["changed"] is False


def test_a_machine_that_is_off(lab, monkeypatch):
    monkeypatch.setattr(Libvirt, "state", "off")
    assert "host node1: is off; switch it on (cxl_power)" in lab.call(cxl_device, **LAB, devices=[HOT])["msg"]


def test_an_error_and_what_the_host_saw(lab):
    lab.call(cxl_device, **LAB, devices=[HOT])
    result = lab.call(cxl_error, **LAB, device="hot", kind="dram", arguments={"bank": 3})
    assert result["changed"] and result["memdev"] == "mem0" and "cxl-inject-dram-event" in lab.qemu.commands
    (event,) = result["seen"]
    assert (event["event"], event["memdev"], event["fields"]["log"], event["fields"]["bank"]) == (
        *("cxl_dram", "mem0", "Informational", "3"),
    )
    assert result["listed"]["memdev"] == "mem0"
    assert result["command"]["arguments"]["path"] == "/machine/peripheral/cxl-dev.hot"
    assert lab.guest.ran.count("mount -t tracefs tracefs /sys/kernel/tracing") == 1
    assert any(line.startswith("rmdir /sys/kernel/tracing/instances/") for line in lab.guest.ran)


def test_a_host_that_gave_the_device_up_after_an_error(lab):
    lab.call(cxl_device, **LAB, devices=[HOT])
    lab.guest.answers["cat"] = (
        " irq/42-75 [001] ..... 10.1: cxl_aer_uncorrectable_error: memdev=mem0 host=0000:0d:00.0 serial=5: "
        "status: 'Memory Data ECC Error' first_error: 'Memory Data ECC Error'\n"
    )
    lab.guest.answers |= {"cxl list -M -i --health": "", "cxl list -M -m": ""}
    result = lab.call(cxl_error, **LAB, device="hot", kind="uncorrectable")
    assert [seen["event"] for seen in result["seen"]] == ["cxl_aer_uncorrectable_error"]
    assert result["listed"] is None and result["poison"] == []


def test_errors_of_the_protocol_are_unmasked_first(lab):
    """Linux 6.12 leaves the masks as a reset makes them, so that no such error was ever seen."""
    lab.call(cxl_device, **LAB, devices=[HOT])
    for kind in ("dram", "correctable"):
        lab.call(cxl_error, **LAB, device="hot", kind=kind, check=True)
        assert not [line for line in lab.guest.ran if line.startswith("setpci")], "check mode leaves the host alone"
    lab.call(cxl_error, **LAB, device="hot", kind="dram", wait=False)
    assert not [line for line in lab.guest.ran if line.startswith("setpci")]
    lab.call(cxl_error, **LAB, device="hot", kind="correctable", wait=False)
    assert "setpci -s 0000:0d:00.0 ECAP_AER+08.l=0:00400000 ECAP_AER+14.l=0:00004000" in lab.guest.ran
    played = len(lab.qemu.commands)
    lab.guest.answers["setpci -s"] = Result(127, "", "setpci: not found")
    failed = lab.call(cxl_error, **LAB, device="hot", kind="correctable", wait=False)
    assert "setpci: not found; install pciutils" in failed["msg"] and len(lab.qemu.commands) == played, "nothing was played"
    (row,) = json.loads(lab.guest.memdevs())
    lab.guest.answers["cxl list -M -i"] = json.dumps([{**row, "host": "-rf"}])
    assert "'-rf' is no PCI function" in lab.call(cxl_error, **LAB, device="hot", kind="correctable", wait=False)["msg"]


def test_an_error_that_nobody_saw_fails_and_says_so(lab):
    lab.call(cxl_device, **LAB, devices=[HOT])
    result = lab.call(cxl_error, **LAB, device="hot", kind="correctable", wait_timeout=0)
    assert "waited 0 s for the kernel of node1 to tell about it" in result["msg"]
    assert lab.call(cxl_error, **LAB, device="hot", kind="correctable", wait=False)["seen"] == []


def test_check_mode_and_wrong_arguments_play_nothing(lab):
    lab.call(cxl_device, **LAB, devices=[HOT])
    before = list(lab.qemu.commands)
    assert lab.call(cxl_error, **LAB, device="hot", kind="dram", check=True)["changed"]
    assert "rank is 'x'" in lab.call(cxl_error, **LAB, device="hot", kind="dram", arguments={"rank": "x"})["msg"]
    assert "QEMU has no device of this name" in lab.call(cxl_error, **LAB, device="cold", kind="dram")["msg"]
    assert lab.qemu.commands == before


def test_poison_that_is_there_is_no_change(lab):
    lab.call(cxl_device, **LAB, devices=[HOT])
    lab.guest.poison = [{"offset": 0, "length": 128, "source": "Injected"}]
    result = lab.call(cxl_error, **LAB, device="hot", kind="poison")
    assert result["changed"] is False and result["poison"] == lab.guest.poison
    info = lab.call(cxl_error_info, **LAB, device="hot")
    assert info["poison"] == lab.guest.poison and "poison" in info["kinds"]
    assert lab.call(cxl_error_info, **LAB)["poison"] == []
