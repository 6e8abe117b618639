# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab comes up and goes down: real files and ports, a pretended hypervisor."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.ports import free_port
from ansible.module_utils.cxl_lab.runner import HostRunner
from ansible.module_utils.cxl_lab.topology.domain_xml import LAB_NAMESPACE
from ansible.module_utils.cxl_lab.topology.lab import Lab, as_result, check_port
from ansible.module_utils.cxl_lab.topology.libvirt_host import LibvirtHost
from ansible.module_utils.cxl_lab.topology.plan import LabPaths, Seen, Step, plan_steps
from ansible.module_utils.cxl_lab.topology.store import Owner, Store
from hypervisors import FakeHypervisor
from labs import PLATFORM, machines_of, two_node
from ssh_server import sshd

pytestmark = pytest.mark.skipif(
    not (shutil.which("ssh-keygen") and shutil.which("qemu-img")), reason="ssh-keygen or qemu-img is not installed"
)
NAME1, NAME2 = "cxl-lab.two_node.node1", "cxl-lab.two_node.node2"
TAKEN = LabError("domain x", "did not start: qemu-system-x86_64: Could not set up host forwarding rule 'tcp:127.0.0.1:40001-:22'")


@pytest.fixture
def store(tmp_path):
    (tmp_path / "shm").mkdir()
    (tmp_path / "image.raw").write_bytes(b"\0" * 4096)
    me = Owner(os.getuid(), os.getgid())
    return Store(LabPaths("two_node", tmp_path / "lab", tmp_path / "shm"), HostRunner(), me, me)


@pytest.fixture
def platform(tmp_path):
    return replace(PLATFORM, disk=str(tmp_path / "image.raw"))


@pytest.fixture
def machines(platform):
    return machines_of(two_node(), platform=platform)


@pytest.fixture
def hypervisor():
    return FakeHypervisor()


@pytest.fixture
def lab(hypervisor, store):
    return Lab(hypervisor, store)


@pytest.fixture(autouse=True)
def emulator_log(monkeypatch):
    """What QEMU said; libvirt keeps it where only root reads."""
    monkeypatch.setattr(LibvirtHost, "emulator_log", staticmethod(lambda name, lines=12: f"{name}: terminated\nout of luck"))


def seen_of(machines, state="running", ssh_port=4022):
    return {machine.host.name: Seen(state, machine.spec(), ssh_port) for machine in machines}


def bring_up(lab, machines, seen=None):
    return lab.carry_out(plan_steps(machines, seen or {}), machines, seen or {})


@contextlib.contextmanager
def occupied():
    """A port that somebody else listens on."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_hosts_are_made_and_started(lab, machines, hypervisor, store):
    ports = bring_up(lab, machines)
    assert list(hypervisor.domains) == [NAME1, NAME2] and hypervisor.ports() == list(ports.values())
    assert len(set(ports.values())) == 2 and min(ports.values()) > 1023
    assert store.paths.host("node1").joinpath("disk.qcow2").exists() and store.paths.memory("pool0").exists()


def test_nothing_to_do_starts_nothing(lab, machines, hypervisor):
    assert bring_up(lab, machines, seen_of(machines)) == {"node1": 4022, "node2": 4022}
    assert hypervisor.started == [] and hypervisor.removed == []


def test_confinement_models_reach_the_domain(lab, machines, hypervisor):
    hypervisor.models = ["apparmor"]
    bring_up(lab, machines)
    assert [domain.find("seclabel").get("model") for domain in hypervisor.started] == ["apparmor", "apparmor"]


def test_a_port_that_was_taken_meanwhile_is_replaced(lab, machines, hypervisor):
    hypervisor.failures = [TAKEN, TAKEN]
    ports = bring_up(lab, machines[:1])
    tried = hypervisor.ports()
    assert len(tried) == 3 and tried[-1] == ports["node1"] and len(set(tried)) > 1


def test_ports_that_are_always_taken_are_given_up(lab, machines, hypervisor):
    hypervisor.failures = [TAKEN] * 9
    with pytest.raises(LabError, match="host forwarding"):
        bring_up(lab, machines[:1])
    assert len(hypervisor.started) == 4


def test_another_error_is_not_tried_again(lab, machines, hypervisor):
    hypervisor.failures = [LabError("domain x", "did not start: out of memory")]
    with pytest.raises(LabError, match="out of memory"):
        bring_up(lab, machines[:1])
    assert len(hypervisor.started) == 1


def test_an_explicit_port_that_is_taken_is_named(lab, platform, hypervisor):
    with occupied() as port:
        machines = machines_of({"hosts": [{"name": "a", "ssh_port": port}]}, platform=platform)
        with pytest.raises(
            LabError, match=rf"^host a: ssh_port {port} cannot be used: Address already in use; choose another ssh_port"
        ):
            bring_up(lab, machines)
    assert hypervisor.started == []


def test_an_explicit_port_is_not_exchanged(lab, platform, hypervisor):
    machines = machines_of({"hosts": [{"name": "a", "ssh_port": free_port()}]}, platform=platform)
    hypervisor.failures = [TAKEN]
    with pytest.raises(LabError, match="host forwarding"):
        bring_up(lab, machines)
    assert len(hypervisor.started) == 1


def test_a_host_that_was_off_keeps_disk_and_port(lab, machines, hypervisor, store):
    ports = bring_up(lab, machines[:1])
    (store.paths.host("node1") / "disk.qcow2").write_text("written by the guest")
    hypervisor.domains[NAME1] = "off"
    again = bring_up(lab, machines[:1], seen_of(machines[:1], "off", ports["node1"]))
    assert again == ports and hypervisor.ports() == [ports["node1"]] * 2
    assert (store.paths.host("node1") / "disk.qcow2").read_text() == "written by the guest"


def test_a_host_whose_old_port_is_taken_gets_another(lab, machines, hypervisor):
    with occupied() as port:
        hypervisor.failures = [TAKEN]
        ports = bring_up(lab, machines[:1], seen_of(machines[:1], "off", port))
    assert ports["node1"] != port and hypervisor.domains == {NAME1: "running"}


def test_a_paused_host_is_resumed(lab, machines, hypervisor):
    hypervisor.domains[NAME1] = "paused"
    assert bring_up(lab, machines[:1], seen_of(machines[:1], "paused", 4022)) == {"node1": 4022}
    assert hypervisor.started == [] and hypervisor.domains == {NAME1: "running"}


def test_replace_makes_a_new_disk_and_keeps_the_key(lab, machines, hypervisor, store):
    bring_up(lab, machines)
    key = store.host_public_key("node1")
    (store.paths.host("node1") / "disk.qcow2").write_text("old")
    seen = seen_of(machines)
    lab.carry_out([Step("replace", "node1", "it crashed")], machines, seen)
    assert hypervisor.removed == [NAME1] and len(hypervisor.started) == 3
    assert (store.paths.host("node1") / "disk.qcow2").read_bytes().startswith(b"QFI\xfb") and store.host_public_key(
        "node1"
    ) == key


def test_hosts_that_are_not_wanted_go(lab, machines, hypervisor, store):
    bring_up(lab, machines)
    ports = bring_up(lab, machines[:1], seen_of(machines))
    assert hypervisor.removed == [NAME2] and "node2" not in ports and not store.paths.host("node2").exists()


def test_all_of_it_goes(lab, machines, hypervisor, store):
    bring_up(lab, machines)
    assert lab.remove(["node1", "node2"]) == [str(store.paths.memory("pool0")), str(store.paths.root)]
    assert hypervisor.domains == {} and hypervisor.removed == [NAME1, NAME2]


def test_ready_is_who_lets_the_key_in(lab, machines, store):
    bring_up(lab, machines)
    user = store.paths.login_key.with_suffix(".pub").read_text()
    with contextlib.ExitStack() as stack:
        hosts = {m.host.name: store.paths.host(m.host.name) / "ssh_host_ed25519_key" for m in machines}
        ports = {name: stack.enter_context(sshd(key, user)) for name, key in hosts.items()}
        seconds = lab.wait_ready(ports, timeout=60, sleep=0.05)
    assert set(seconds) == {"node1", "node2"} and all(0 <= value <= 60 for value in seconds.values())


def test_nobody_to_wait_for(lab):
    assert lab.wait_ready({}, timeout=60, sleep=0.05) == {}


def test_a_machine_that_died_tells_its_last_words(lab, machines, hypervisor, store):
    bring_up(lab, machines[:1])
    (store.paths.host("node1") / "serial.log").write_text("Linux version 6.12\nsome driver failed\n")
    hypervisor.domains[NAME1] = "off"
    with pytest.raises(LabError, match=r"^host node1: the virtual machine died; look at .*/node1/serial.log") as caught:
        lab.wait_ready({"node1": free_port()}, timeout=600, sleep=0.05)
    assert caught.value.observed == {
        "qemu": [f"{NAME1}: terminated", "out of luck"],
        "serial": ["Linux version 6.12", "some driver failed"],
    }
    assert "qemu: out of luck" in str(caught.value) and "serial: some driver failed" in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "You are in emergency mode. After logging in, type ...",
        "ALERT!  /dev/vda does not exist.  Dropping to a shell!",
    ],
)
def test_a_guest_that_gave_up_is_not_waited_for(lab, machines, store, line):
    """With ten minutes to wait this test would not end."""
    bring_up(lab, machines[:1])
    (store.paths.host("node1") / "serial.log").write_text(f"Linux version 6.12\n{line}\n---[ end ]---\n")
    with pytest.raises(LabError) as caught:
        lab.wait_ready({"node1": free_port()}, timeout=600, sleep=0.05)
    assert caught.value.problem == line


def test_one_dead_host_ends_the_wait_for_all(lab, machines, hypervisor):
    """With ten minutes to wait for the other one this test would not end."""
    bring_up(lab, machines)
    hypervisor.domains[NAME2] = "off"
    with pytest.raises(LabError, match="host node2: the virtual machine died"):
        lab.wait_ready({"node1": free_port(), "node2": free_port()}, timeout=600, sleep=0.05)


def test_no_login_in_time_says_why(lab, machines):
    bring_up(lab, machines[:1])
    with pytest.raises(LabError, match=r"^host node1: no login within 0 s \(.*refused\)"):
        lab.wait_ready({"node1": free_port()}, timeout=0.1, sleep=0.05)


def test_another_host_key_is_an_alarm_at_once(lab, machines, store):
    bring_up(lab, machines)
    user = store.paths.login_key.with_suffix(".pub").read_text()
    with sshd(store.paths.host("node2") / "ssh_host_ed25519_key", user) as port, pytest.raises(LabError) as caught:
        lab.wait_ready({"node1": port}, timeout=600, sleep=0.05)
    assert str(caught.value).startswith(f"host node1: 127.0.0.1:{port} shows a ssh-ed25519 host key that is not the lab's")


def test_check_port(machines):
    check_port(free_port(), machines[0])
    with occupied() as port, pytest.raises(LabError, match=f"host node1: ssh_port {port} cannot be used"):
        check_port(port, machines[0])


def test_the_result_is_what_is_there(machines):
    seen = {"node1": Seen("paused", machines[0].spec(), 4001)}
    first, second = as_result(machines, seen)
    nothing = {"volatile": 0, "dynamic": 0, "dc_regions": 0, "heads": 0, "head": None}
    memories = [{"name": "pool0", "size": 512 << 20, "hosts": ["node1", "node2"], "serial": "0xc0de0001", **nothing}]
    assert first == {
        "name": "node1",
        "domain": NAME1,
        "state": "paused",
        "ssh_port": 4001,
        "address": "10.77.0.11/24",
        "addresses": {"lab": "10.77.0.11/24"},
        "memories": memories,
    }
    assert (second["state"], second["ssh_port"]) == ("absent", 0)


def test_the_domain_knows_its_lab(lab, machines, hypervisor):
    bring_up(lab, machines[:1])
    mark = hypervisor.started[0].find(f"metadata/{{{LAB_NAMESPACE}}}lab")
    assert (mark.get("name"), mark.get("host")) == ("two_node", "node1")


def test_the_result_names_the_head_of_each_host():
    device = {"name": "pool0", "dynamic": "512M", "heads": 8, "hosts": ["b", "a"]}
    machines = machines_of({"hosts": [{"name": "a"}, {"name": "b"}], "memories": [device]})
    assert [(row["heads"], row["head"]) for host in as_result(machines, {}) for row in host["memories"]] == [(8, 1), (8, 0)]
