# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_topology and its info twin as Ansible runs them, on libvirt's test driver: real libvirt, real files, no machines."""

from __future__ import annotations

import functools
import os
import shutil
import socket

import libvirt
import pytest
from ansible.module_utils.cxl_lab.topology import lab as lab_core
from ansible.module_utils.cxl_lab.topology import libvirt_host
from ansible.module_utils.cxl_lab.topology.libvirt_host import LibvirtHost
from ansible.module_utils.cxl_lab.topology.plan import LabPaths
from ansible.module_utils.cxl_lab.topology.store import Owner
from ansible.modules import cxl_topology, cxl_topology_info
from fakes import run_module
from hypervisors import TEST_URI, for_test_driver
from labs import two_node

pytestmark = pytest.mark.skipif(
    not (shutil.which("ssh-keygen") and shutil.which("qemu-img")), reason="ssh-keygen or qemu-img is not installed"
)
LAB = "pytest"
NOWHERE = "qemu+unix:///system?socket=/nowhere/sock"


@pytest.fixture
def connection(monkeypatch, tmp_path):
    """A hypervisor that lives as long as this test; its files, logs and shared memory are below the test's folder."""
    real_xml = lab_core.domain_xml
    monkeypatch.setattr(lab_core, "domain_xml", lambda *arguments: for_test_driver(real_xml(*arguments)))
    monkeypatch.setattr(libvirt, "VIR_DOMAIN_UNDEFINE_NVRAM", 0)
    monkeypatch.setattr(libvirt_host, "_LOGS", tmp_path)
    monkeypatch.setattr(LibvirtHost, "emulator_user", lambda self: Owner(os.getuid(), os.getgid()))
    monkeypatch.setattr(cxl_topology, "LabPaths", functools.partial(LabPaths, shared=tmp_path / "shm"))
    (tmp_path / "shm").mkdir()
    (tmp_path / "disk.raw").write_bytes(b"\0" * 4096)
    held = libvirt.open(TEST_URI)
    yield held
    for domain in held.listAllDomains():
        if domain.name() != "test":
            if not domain.isPersistent():
                domain.destroy()
                continue
            if domain.isActive():
                domain.destroy()
            domain.undefine()
    held.close()


@pytest.fixture
def topology(connection, monkeypatch, capsys, tmp_path):
    """Runs the module; its lab is the default one unless the test says otherwise."""
    platform = {"emulator": "/usr/bin/qemu", "accel": "tcg", "kernel": "/k", "initrd": "/i", "disk": str(tmp_path / "disk.raw")}
    defaults = {"lab": LAB, "lab_dir": str(tmp_path / "lab"), "uri": TEST_URI, "wait": False}

    def run(*, check=False, **args):
        given = {**defaults, **({} if args.get("state") == "absent" else {"topology": two_node(), "platform": platform}), **args}
        return run_module(
            cxl_topology, monkeypatch, capsys, check=check, **{key: value for key, value in given.items() if value is not None}
        )

    return run


@pytest.fixture
def info(connection, monkeypatch, capsys):
    return lambda **args: run_module(cxl_topology_info, monkeypatch, capsys, **{"lab": LAB, "uri": TEST_URI, **args})


def states(result) -> dict[str, str]:
    return {host["name"]: host["state"] for host in result["hosts"]}


def ours(connection) -> list[str]:
    return sorted(domain.name() for domain in connection.listAllDomains() if domain.name() != "test")


def everything(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_from_nothing_to_nothing(topology, connection, tmp_path):
    before = everything(tmp_path)
    made = topology()
    assert made["changed"] is True and [step["action"] for step in made["steps"]] == ["create", "create"]
    assert states(made) == {"node1": "running", "node2": "running"} and ours(connection) == [
        "cxl-lab.pytest.node1",
        "cxl-lab.pytest.node2",
    ]
    assert all(host["ssh_port"] > 1023 for host in made["hosts"]) and made["ssh_config"] == str(tmp_path / "lab" / "ssh_config")
    assert [states({"hosts": made["diff"][side]["hosts"]})["node1"] for side in ("before", "after")] == ["absent", "running"]
    again = topology()
    assert again["changed"] is False and again["steps"] == [] and again["hosts"] == made["hosts"]
    gone = topology(state="absent")
    assert gone["changed"] is True and ours(connection) == [] and everything(tmp_path) == before
    assert gone["removed"] == [str(tmp_path / "shm" / "cxl-lab.pytest.pool0"), str(tmp_path / "lab")]
    assert topology(state="absent")["changed"] is False


def test_check_mode_makes_nothing(topology, connection, tmp_path):
    before = everything(tmp_path)
    planned = topology(check=True)
    assert planned["changed"] is True and len(planned["steps"]) == 2 and states(planned) == {"node1": "absent", "node2": "absent"}
    assert ours(connection) == [] and everything(tmp_path) == before


def test_check_mode_removes_nothing(topology, connection, tmp_path):
    topology()
    before = everything(tmp_path)
    planned = topology(check=True, state="absent")
    assert planned["changed"] is True and "removed" not in planned
    assert len(ours(connection)) == 2 and everything(tmp_path) == before
    assert topology(check=True)["changed"] is False


def test_check_mode_needs_no_libvirt(topology, tmp_path):
    before = everything(tmp_path)
    planned = topology(check=True, uri=NOWHERE)
    assert planned["changed"] is True and len(planned["steps"]) == 2 and everything(tmp_path) == before


def test_no_libvirt(topology):
    result = topology(uri=NOWHERE)
    assert (
        result["failed"] is True
        and result["msg"].startswith(f"libvirt at {NOWHERE}: ")
        and "check that libvirtd runs" in result["msg"]
    )


def test_files_are_removed_without_libvirt(topology, tmp_path):
    topology()
    gone = topology(state="absent", uri=NOWHERE)
    assert gone["changed"] is True and not (tmp_path / "lab").exists() and list((tmp_path / "shm").iterdir()) == []


def test_files_stay_while_machines_run_without_libvirt(topology, tmp_path, monkeypatch):
    """QEMU outlives libvirtd."""
    topology()
    monkeypatch.setattr(cxl_topology, "running_domains", lambda: frozenset({"cxl-lab.pytest.node2", "cxl-lab.other.node1"}))
    result = topology(state="absent", uri=NOWHERE)
    assert result["failed"] is True and "libvirtd" in result["msg"] and (tmp_path / "shm" / "cxl-lab.pytest.pool0").exists()
    monkeypatch.setattr(cxl_topology, "running_domains", lambda: frozenset({"cxl-lab.pytest-2.node2", "cxl-lab.other.node1"}))
    assert topology(state="absent", uri=NOWHERE)["changed"] is True


def test_machines_are_found_without_files(topology, connection, tmp_path):
    topology()
    shutil.rmtree(tmp_path / "lab")
    gone = topology(state="absent")
    assert gone["changed"] is True and ours(connection) == []


def test_a_host_that_is_off_is_started(topology, connection):
    ports = [host["ssh_port"] for host in topology()["hosts"]]
    connection.lookupByName("cxl-lab.pytest.node2").destroy()
    again = topology()
    assert again["changed"] is True and again["steps"] == [{"action": "start", "host": "node2", "reason": "it is off"}]
    assert states(again)["node2"] == "running" and [host["ssh_port"] for host in again["hosts"]] == ports


def test_a_host_that_is_paused_goes_on(topology, connection):
    topology()
    connection.lookupByName("cxl-lab.pytest.node1").suspend()
    assert states(topology())["node1"] == "running"


def test_other_settings_need_consent(topology, connection, tmp_path):
    topology()
    disk = tmp_path / "lab" / "hosts" / "node1" / "disk.qcow2"
    disk.write_text("the user's data")
    data = two_node()
    data["hosts"][0]["memory"] = "3G"
    for check in (True, False):
        refused = topology(check=check, topology=data)
        assert refused["failed"] is True
        assert refused["msg"].startswith("host node1: built with other settings: host.memory: 2147483648 -> 3221225472; ")
        assert "cxl_topology_recreate=true" in refused["msg"] and disk.read_text() == "the user's data"
    made = topology(topology=data, recreate=True)
    assert [(step["action"], step["host"]) for step in made["steps"]] == [("replace", "node1")]
    assert disk.read_bytes().startswith(b"QFI\xfb") and topology(topology=data)["changed"] is False


def test_everything_that_would_be_lost_is_told_at_once(topology):
    topology()
    data = two_node()
    for host in data["hosts"]:
        host["memory"] = "3G"
    message = topology(topology=data)["msg"]
    assert message.startswith("host node1: built with other settings: ") and "\n  - host node2: built with other" in message
    assert message.count("cxl_topology_recreate=true") == 1


@pytest.mark.parametrize("image", ["/disk.raw", {"disk": "/d"}, {"disk": "/d", "kernel": "/k", "initrd": "/i", "ramdisk": "/r"}])
def test_an_image_that_is_none(topology, image):
    result = topology(topology={"hosts": [{"name": "a", "extra_packages": ["gdb"]}]}, images={"a": image})
    assert result["msg"].startswith("image of a: ") and result["msg"].endswith(
        "; give disk, kernel and initrd (role cxl_guest_image)"
    )


def test_hosts_that_are_not_wanted_go(topology, connection, tmp_path):
    topology(topology={"hosts": [{"name": "a"}]})
    made = topology(topology={"hosts": [{"name": "b"}]})
    assert [(step["action"], step["host"]) for step in made["steps"]] == [("remove", "a"), ("create", "b")]
    assert ours(connection) == ["cxl-lab.pytest.b"] and not (tmp_path / "lab" / "hosts" / "a").exists()


def test_hosts_that_run_are_told_of_one_that_joins(topology, monkeypatch, tmp_path):
    lab = {"networks": [{"name": "lab", "kind": "switch"}]}
    two, three = (
        {**lab, "hosts": [{"name": name} for name in names]} for names in (("node1", "node2"), ("node1", "node2", "node3"))
    )
    monkeypatch.setattr(lab_core, "start_switches", lambda *_: None)
    monkeypatch.setattr(lab_core, "try_login", lambda *_: "")
    topology(topology=two)
    told = []
    monkeypatch.setattr(cxl_topology.HostNames, "outdated", lambda self, hosts: [host for host in hosts if not told])
    monkeypatch.setattr(cxl_topology.HostNames, "tell", lambda self, hosts: told.extend(hosts))
    planned = topology(topology=three, check=True, wait=True)
    assert [(step["action"], step["host"]) for step in planned["steps"]] == [
        ("create", "node3"),
        ("tell", "node1"),
        ("tell", "node2"),
    ]
    assert told == []
    assert topology(topology=three, wait=True)["steps"] == planned["steps"] and told == ["node1", "node2"]
    assert topology(topology=three, wait=True)["changed"] is False


def test_a_lost_ssh_config_is_a_change(topology, tmp_path):
    topology()
    (tmp_path / "lab" / "ssh_config").unlink()
    again = topology()
    assert again["changed"] is True and again["steps"] == [] and (tmp_path / "lab" / "ssh_config").exists()


def test_another_lab_is_not_touched(topology, connection, tmp_path):
    topology()
    topology(lab="pytest-2", lab_dir=str(tmp_path / "lab2"))
    topology(state="absent")
    assert ours(connection) == ["cxl-lab.pytest-2.node1", "cxl-lab.pytest-2.node2"]
    assert [path.name for path in (tmp_path / "shm").iterdir()] == ["cxl-lab.pytest-2.pool0"]


def test_a_stranger_with_our_name(topology, connection):
    name = "cxl-lab.pytest.node1"
    connection.createXML(f"<domain type='test'><name>{name}</name><memory>65536</memory><os><type>hvm</type></os></domain>")
    result = topology()
    assert result["failed"] is True and result["msg"] == f"domain {name}: exists and was not made by cxl.lab; rename or remove it"
    topology(state="absent")
    assert connection.lookupByName(name).isActive()


def test_waiting_tells_how_long_it_took(topology, monkeypatch):
    monkeypatch.setattr(lab_core, "try_login", lambda *_: "")
    assert set(topology(wait=True)["boot_seconds"]) == {"node1", "node2"}
    assert "boot_seconds" not in topology()


def test_a_host_that_does_not_come_up(topology, monkeypatch, tmp_path):
    result = topology(wait=True, wait_timeout=0.1, wait_sleep=0.05)
    assert result["failed"] is True and "no login within 0 s" in result["msg"] and "serial.log" in result["msg"]
    assert set(result["observed"]) == {"qemu", "serial"}
    assert topology()["changed"] is False, "what was built stays for a look"


def test_a_port_that_is_taken(topology):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = topology(topology={"hosts": [{"name": "a", "ssh_port": port}]})
    assert (
        result["failed"] is True
        and f"ssh_port {port} cannot be used: Address already in use; choose another ssh_port" in result["msg"]
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lab": "../x"}, "lab: '../x' is no valid name; "),
        ({"lab": "a.b", "state": "absent"}, "lab: 'a.b' is no valid name; "),
        ({"lab_dir": "labs/demo"}, "lab_dir: labs/demo is no absolute path; "),
        ({"lab_dir": "labs/demo", "state": "absent"}, "lab_dir: labs/demo is no absolute path; "),
        ({"topology": {"hosts": []}}, "topology: 1 problem(s)\n  - hosts: the list is empty"),
        ({"platform": None}, "state is present but all of the following are missing: platform"),
    ],
)
def test_bad_options_change_nothing(topology, connection, tmp_path, args, message):
    before = everything(tmp_path)
    result = topology(**args)
    assert result["failed"] is True and result["msg"].startswith(message), result["msg"]
    assert everything(tmp_path) == before and ours(connection) == []


@pytest.mark.parametrize("check", [False, True])
def test_a_folder_of_somebody_else_is_not_removed(topology, connection, tmp_path, check):
    topology()
    (tmp_path / "lab" / "thesis.tex").write_text("years of work")
    result = topology(check=check, state="absent")
    assert result["failed"] is True and "holds thesis.tex, which is not of a lab" in result["msg"]
    assert len(ours(connection)) == 2 and (tmp_path / "lab" / "id_ed25519").exists()


def test_a_lab_that_this_machine_cannot_have_is_not_begun(topology, connection, tmp_path):
    before, data = everything(tmp_path), two_node()
    data["hosts"][1]["kernel"] = "/nowhere/bzImage"
    for check in (True, False):
        result = topology(topology=data, check=check)
        assert result["failed"] is True and result["msg"].startswith(
            "lab pytest: 1 problem(s) before the start\n  - hosts[1].kernel: /nowhere/bzImage cannot be read: No such file"
        )
    assert everything(tmp_path) == before and ours(connection) == []


def test_the_folder_of_another_lab_costs_no_machine(topology, connection, tmp_path):
    topology()
    topology(lab="other", lab_dir=str(tmp_path / "lab2"))
    for check in (True, False):
        result = topology(lab_dir=str(tmp_path / "lab2"), topology={"hosts": [{"name": "node1"}]}, recreate=True, check=check)
        assert result["failed"] is True and "lab2: is that of lab other; give each lab a lab_dir of its own" in result["msg"]
    assert len(ours(connection)) == 4


@pytest.mark.parametrize("state", ["present", "absent"])
def test_files_that_cannot_be_made(topology, monkeypatch, state):
    def refused(*_):
        raise PermissionError(13, "Permission denied", "/var/lib/cxl-lab")

    monkeypatch.setattr(cxl_topology.Store, "prepare_lab", refused)
    monkeypatch.setattr(cxl_topology.Store, "drop_lab", refused)
    result = topology(state=state)
    assert result["msg"] == (
        "files of lab pytest: /var/lib/cxl-lab: Permission denied; check lab_dir, the rights there and the free space"
    )


def test_what_ansible_fills_in_is_left_out():
    assert cxl_topology.given({"a": None, "b": [{"c": None, "d": 0}], "e": ""}) == {"b": [{"d": 0}], "e": ""}


def test_without_its_libraries(topology, monkeypatch):
    monkeypatch.setattr(cxl_topology, "MISSING", "paramiko")
    result = topology()
    assert result["failed"] is True and "paramiko" in result["msg"] and "scripts/bootstrap" in result["msg"]


def test_info_shows_what_is_there(topology, info, connection):
    assert info()["hosts"] == []
    made = topology()
    connection.lookupByName("cxl-lab.pytest.node2").destroy()
    result = info()
    assert result["changed"] is False
    assert [(host["name"], host["domain"], host["state"], host["ssh_port"]) for host in result["hosts"]] == [
        ("node1", "cxl-lab.pytest.node1", "running", made["hosts"][0]["ssh_port"]),
        ("node2", "cxl-lab.pytest.node2", "off", made["hosts"][1]["ssh_port"]),
    ]
    assert result["hosts"][0]["spec"]["host"]["memory"] == 2 << 30
    assert info(lab="other")["hosts"] == []


@pytest.mark.parametrize(
    ("args", "message"), [({"lab": "a b"}, "lab: 'a b' is no valid name"), ({"uri": NOWHERE}, f"libvirt at {NOWHERE}: ")]
)
def test_info_says_what_is_wrong(info, args, message):
    result = info(**args)
    assert result["failed"] is True and result["msg"].startswith(message)
