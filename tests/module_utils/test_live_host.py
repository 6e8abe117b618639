# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices that come and go: on a pretended QEMU with a guest, and the commands on a real one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import hotplug, live_devices
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.leaks import Leak, Leaks
from ansible.module_utils.cxl_lab.live_host import LiveHost
from ansible.module_utils.cxl_lab.runner import Result
from dcd_devices import EMULATORS, stopped_qemu
from live_qemu import Guest, LiveQemu

FILES = {kind: Path(f"/dev/shm/hot.{kind}") for kind in ("persistent", "volatile", "labels")}
EMPTY = {"size": None, "volatile": None, "serial": None, "parent": "b", "port": None}


def want(name="hot", **given):
    return live_devices.parse_device("node1", {**EMPTY, "name": name, "size": "256M", **given}, True)


@pytest.fixture
def qemu():
    return LiveQemu()


@pytest.fixture
def guest(qemu):
    return Guest(qemu)


@pytest.fixture
def host(qemu, guest, tmp_path):
    return LiveHost("node1", qemu, guest, Leaks(tmp_path), elsewhere={}, timeout=0, sleep=0)


def attach(host, wanted):
    commands = host.plan_attach(wanted, host.observe(), FILES)
    return host.attach(wanted, commands) if commands else ""


def detach(host, name="hot", force=False):
    device = host.observe().device(name)
    return host.detach(device, host.plan_release(device, force), force)


def test_a_device_comes_and_then_is_there(host, qemu):
    assert attach(host, want()) == "mem0"
    assert qemu.commands == ["object-add cxl-mem.hot", "object-add cxl-lsa.hot", "device_add cxl-dev.hot"]
    assert host.plan_attach(want(), host.observe(), FILES) == []
    assert live_devices.describe(host.observe(), "hot") == {
        **{"name": "hot", "serial": "0xc0de1001", "size": 256 << 20, "volatile": 0, "port": "cxl-rp.b.0"},
    }


def test_a_device_that_goes_while_it_is_looked_at_is_gone(host, qemu):
    """QEMU takes it out of its tree when the guest lets go, between two questions."""
    attach(host, want())
    qemu.goes = "cxl-dev.hot"
    live = host.observe()
    assert live.device("hot") is None and not live.taken
    qemu.goes = ""
    attach(host, want(name="other"))
    qemu.refuses = "qom-get"
    with pytest.raises(LabError, match="QEMU refuses"):
        host.observe()


def test_each_kind_of_capacity_has_its_memory(host, qemu):
    attach(host, want(size="256M", volatile="512M", port=2, serial="0x7"))
    device = qemu.devices["cxl-dev.hot"]
    assert (device["persistent-memdev"], device["volatile-memdev"], device["lsa"]) == (
        *("cxl-mem.hot", "cxl-volatile.hot", "cxl-lsa.hot"),
    )
    assert (device["bus"], device["sn"]) == ("cxl-rp.b.2", 7)
    assert qemu.objects["cxl-volatile.hot"]["size"] == 512 << 20 and qemu.objects["cxl-volatile.hot"]["share"] is True


@pytest.mark.parametrize("keeps", [False, True])
def test_it_goes_and_comes_back_with_new_memory_objects(host, qemu, guest, keeps):
    qemu.keeps = keeps
    for round_ in range(3):
        attach(host, want())
        guest.regions = {0xC0DE1001}
        detach(host)
        assert "cxl-dev.hot" not in qemu.devices and host.leaked() == [], round_
    assert ("cxl-mem.hot.3" in qemu.objects) == keeps
    assert guest.ran.count("cxl destroy-region region1") == 3


def test_the_guest_forgets_the_mappings_of_a_device_that_is_gone(host, qemu, guest):
    attach(host, want())
    guest.answers["python3 - 3235778561"] = Result(1, "", "no route to host")
    detach(host)
    assert guest.ran[-1] == "python3 - 3235778561" and host.leaked() == []
    attach(host, want())
    qemu.keeps, guest.regions, guest.users = True, {0xC0DE1001}, {"/dev/pmem0": ["mounted at /mnt"]}
    detach(host, force=True)
    assert guest.ran.count("python3 - 3235778561") == 1, "what leaked may be mapped still"


def test_the_guest_lets_go_in_the_right_order(host, guest):
    attach(host, want())
    guest.regions = {0xC0DE1001}
    detach(host)
    assert [line for line in guest.changing() if not line.startswith("python3")] == [
        "ndctl disable-namespace namespace0.0",
        "cxl disable-region region1",
        "cxl destroy-region region1",
        "rm -f /etc/cxl-lab/regions.d/0xc0de1001.json",
    ]


def test_memory_in_use_is_not_pulled(host, qemu, guest):
    attach(host, want())
    guest.regions, guest.users = {0xC0DE1001}, {"/dev/pmem0": ["mounted at /mnt"]}
    with pytest.raises(LabError, match=r"device hot of node1: is in use: /dev/pmem0: mounted at /mnt; stop or unmount"):
        detach(host)
    assert "cxl-dev.hot" in qemu.devices and host.leaked() == []


def test_memory_that_was_pulled_by_force_has_leaked_and_is_given_to_nobody(host, qemu, guest, tmp_path):
    qemu.keeps = True
    attach(host, want())
    guest.regions, guest.users = {0xC0DE1001}, {"/dev/pmem0": ["mounted at /mnt"]}
    assert any("leaked" in step for step in detach(host, force=True))
    with pytest.raises(LabError, match=r"hot of node1: leaked: .*/mnt.*switch node1 off and on"):
        attach(host, want())
    other = LiveHost("node2", LiveQemu(), guest, Leaks(tmp_path / "2"), elsewhere={"hot": "node1"}, timeout=0, sleep=0)
    with pytest.raises(LabError, match="leaked on node1"):
        attach(other, want())
    attach(host, want("fresh"))


def test_a_leak_ends_with_its_qemu(host, qemu, guest):
    qemu.keeps = True
    attach(host, want())
    guest.away = True
    detach(host, force=True)
    guest.away = False
    assert [leak.name for leak in host.leaked()] == ["hot"]
    qemu.__init__()
    assert host.leaked() == []
    assert attach(host, want()) == "mem0"


def test_a_guest_that_does_not_let_go(host, qemu):
    attach(host, want())
    qemu.lets_go = False
    with pytest.raises(LabError, match=r"did not go within 0 s; look at dmesg of node1"):
        detach(host)
    assert [leak.name for leak in host.leaked()] == ["hot"]
    qemu.lets_go = True
    detach(host)
    assert host.leaked() == []


def test_a_guest_that_cannot_be_asked_keeps_its_device(host, guest, qemu):
    attach(host, want())
    guest.away = True
    with pytest.raises(LabError, match="no route to host"):
        detach(host)
    assert "cxl-dev.hot" in qemu.devices


@pytest.mark.parametrize("refused", ["object-add", "device_add"])
def test_nothing_is_left_of_a_device_that_qemu_refuses(host, qemu, refused):
    qemu.refuses = refused
    with pytest.raises(LabError, match="QEMU refuses"):
        attach(host, want())
    assert set(qemu.objects) == {"pc.ram"} and qemu.devices == {}


def test_a_run_that_is_killed_before_the_device_went_has_leaked(host, qemu, monkeypatch):
    attach(host, want())
    monkeypatch.setattr(qemu, "device_del", lambda arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        detach(host)
    assert [leak.name for leak in host.leaked()] == ["hot"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"parent": "z"}, r"node1 has no host bridge z; name one of its host bridges \(b\)"),
        ({"port": 7}, "port 7 of b is not there; free are cxl-rp.b.1, cxl-rp.b.2"),
        ({"port": 0}, "port 0 of b is taken"),
        ({"serial": "0xc0de1001"}, "old has the serial number 0xc0de1001"),
    ],
)
def test_where_it_cannot_go(host, given, words):
    attach(host, want("old"))
    with pytest.raises(LabError, match=words):
        attach(host, want(**given))


def test_a_full_bridge(host, qemu):
    qemu.ports = ("cxl-rp.b.0",)
    attach(host, want("old"))
    with pytest.raises(LabError, match="all 1 root ports of b are taken; give the bridge more ports"):
        attach(host, want())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": "512M"}, "is attached with persistent 256M instead of 512M"),
        ({"volatile": "256M"}, "volatile 0 instead of 256M"),
        ({"serial": "0x9"}, "serial 0xc0de1001 instead of 0x9"),
        ({"port": 1}, "port cxl-rp.b.0 instead of b 1"),
    ],
)
def test_one_that_is_there_and_another(host, given, words):
    attach(host, want())
    with pytest.raises(LabError, match=words):
        attach(host, want(**given))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "../x"}, "is no valid name"),
        ({"size": "300M"}, "size 300M is no multiple of 256M"),
        ({"size": None}, "has neither size nor volatile"),
        ({"serial": "zero"}, "is no serial number"),
        ({"parent": "a;b"}, "is no valid name"),
    ],
)
def test_what_is_no_device(given, words):
    with pytest.raises(LabError, match=words):
        want(**given)


def test_a_file_of_leaks_that_nobody_can_read_stops_everything(host, tmp_path):
    (tmp_path / "leaks.json").write_text("[1", encoding="utf-8")
    with pytest.raises(LabError, match=r"leaks\.json: cannot be read"):
        attach(host, want())


def test_leaks_survive_a_round_trip(tmp_path):
    leaks = Leaks(tmp_path)
    kept = [Leak("a", "why", ("cxl-mem.a",)), Leak("b", "x", ("cxl-mem.b",))]
    leaks.save(kept)
    assert leaks.load(["cxl-mem.a", "cxl-mem.b"]) == kept and leaks.load(["cxl-mem.b"]) == kept[1:] and leaks.load([]) == []


@pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it")
def test_a_real_qemu_takes_the_commands_and_a_second_device_of_the_name():
    """Its guest never runs, so that a device goes at once."""
    with tempfile.TemporaryDirectory(prefix="cxl-test-", dir="/dev/shm") as folder:
        port = ("-accel", "tcg", "-device", "cxl-rp,port=1,bus=cxl.0,id=cxl-rp.b.1,chassis=64,slot=1")
        files = {kind: Path(folder) / kind for kind in FILES}
        with stopped_qemu(Path(folder) / "pool0", extra=port) as real:
            for _ in range(2):
                live = live_devices.observe(real)
                assert [device.name for device in live.devices] == ["pool0"]
                for command in hotplug.plan_attach(want(volatile="256M"), live, files):
                    real.execute(command.name, command.arguments)
                found = live_devices.describe(live_devices.observe(real), "hot")
                assert found == {
                    **{"name": "hot", "serial": "0xc0de1001", "size": 256 << 20, "volatile": 256 << 20, "port": "cxl-rp.b.1"}
                }
                real.execute(hotplug.unplug("hot").name, hotplug.unplug("hot").arguments)
                for _ in range(100):
                    if live_devices.observe(real).device("hot") is None:
                        break
