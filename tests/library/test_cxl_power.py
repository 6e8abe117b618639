# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_power as Ansible runs it, on libvirt's test driver: real libvirt, pretended machines."""

from __future__ import annotations

from pathlib import Path

import libvirt
import pytest
from ansible.module_utils.cxl_lab.topology import libvirt_host
from ansible.module_utils.cxl_lab.topology.domain_xml import domain_xml
from ansible.module_utils.cxl_lab.topology.libvirt_host import LibvirtHost
from ansible.module_utils.cxl_lab.topology.plan import LabPaths
from ansible.modules import cxl_power
from fakes import run_module
from hypervisors import TEST_URI, for_test_driver
from labs import machines_of, two_node

NODE1, NODE2 = "cxl-lab.two_node.node1", "cxl-lab.two_node.node2"


@pytest.fixture
def connection(monkeypatch, tmp_path):
    """A hypervisor on which the default lab runs."""
    monkeypatch.setattr(libvirt, "VIR_DOMAIN_UNDEFINE_NVRAM", 0)
    monkeypatch.setattr(libvirt_host, "_LOGS", tmp_path)
    held, ours = libvirt.open(TEST_URI), LibvirtHost(TEST_URI)
    for machine in machines_of(two_node()):
        ours.start(for_test_driver(domain_xml(machine, LabPaths(machine.lab, Path("/nowhere")), 4022)))
    yield held
    for name in (NODE1, NODE2):
        ours.remove(name)
    held.close()


@pytest.fixture
def power(connection, monkeypatch, capsys):
    def run(state, *hosts, check=False, **args):
        given = {"lab": "two_node", "uri": TEST_URI, "hosts": list(hosts), "state": state, **args}
        return run_module(cxl_power, monkeypatch, capsys, check=check, **given)

    return run


def states(result):
    return {host["name"]: host["state"] for host in result["hosts"]}


def test_off_and_on_again(power, connection):
    off = power("off", "node1")
    assert off["changed"] and off["steps"] == [{"action": "stop", "host": "node1", "reason": "it is running"}]
    assert off["hosts"] == [{"name": "node1", "domain": NODE1, "state": "off"}]
    assert off["diff"]["before"]["hosts"][0]["state"] == "running" and off["diff"]["after"]["hosts"] == off["hosts"]
    assert not connection.lookupByName(NODE1).isActive() and connection.lookupByName(NODE2).isActive()
    assert power("off", "node1")["changed"] is False
    on = power("on", "node1", "node2")
    assert on["changed"] and states(on) == {"node1": "running", "node2": "running"}
    assert power("on", "node1", "node2")["changed"] is False


def test_a_machine_that_is_paused(power, connection):
    connection.lookupByName(NODE1).suspend()
    assert states(power("on", "node1")) == {"node1": "running"}
    connection.lookupByName(NODE1).suspend()
    assert states(power("off", "node1")) == {"node1": "off"}


def test_a_reset_is_always_a_change(power, monkeypatch):
    resets = []
    monkeypatch.setattr(libvirt.virDomain, "reset", lambda domain: resets.append(domain.name()))
    for _ in range(2):
        done = power("reset", "node1")
        assert done["changed"] and states(done) == {"node1": "running"}
    assert resets == [NODE1, NODE1]
    assert power("reset", "node1", check=True)["changed"] and len(resets) == 2


def test_check_mode_switches_nothing(power, connection):
    foreseen = power("off", "node1", "node2", check=True)
    assert foreseen["changed"] and states(foreseen) == {"node1": "off", "node2": "off"}
    assert connection.lookupByName(NODE1).isActive() and connection.lookupByName(NODE2).isActive()


def test_one_unknown_name_and_nothing_is_switched(power, connection):
    refused = power("off", "node1", "node9")
    assert refused["msg"] == "host node9: lab two_node has no machine of this name on this hypervisor; it has node1, node2"
    assert connection.lookupByName(NODE1).isActive()


def test_a_machine_of_somebody_else_is_not_touched(power, connection):
    """The test driver has one called "test", and a copy of ours keeps its metadata."""
    assert "no machine of this name" in power("off", "test")["msg"]
    xml = connection.lookupByName(NODE1).XMLDesc().replace(NODE1, "my-copy")
    copy = connection.createXML(xml[: xml.index("<uuid>")] + xml[xml.index("</uuid>") + len("</uuid>") :])
    power("off", "node1")
    assert copy.isActive()
    copy.destroy()


def test_what_libvirt_refuses_is_told(power, monkeypatch):
    def refuse(_):
        raise libvirt.libvirtError("Failed to terminate process 17 with SIGKILL: Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virDomain, "destroy", refuse)
        failed = power("off", "node1")
    assert failed["msg"].startswith(f"domain {NODE1}: stop failed: Failed to terminate process 17") and "look at" in failed["msg"]


def test_a_machine_that_runs_on_is_an_error(power, monkeypatch):
    """A host counts as fenced on the strength of this."""
    with monkeypatch.context() as patch:
        patch.setattr(libvirt.virDomain, "destroy", lambda _: 0)
        failed = power("off", "node1")
    assert "not every host is off" in failed["msg"] and failed["observed"][0]["state"] == "running"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lab": "a b"}, "lab: 'a b' is no valid name"),
        ({"hosts": ["../x"]}, "host: '../x' is no valid name"),
        ({"state": "gone"}, "value of state must be one of: off, on, reset"),
        ({"uri": "qemu+unix:///system?socket=/nowhere/sock"}, "libvirt at qemu+unix"),
    ],
)
def test_bad_options(power, args, message):
    result = power(**{"state": "off", **args})
    assert result["failed"] and message in result["msg"]


def test_without_its_library(power, monkeypatch):
    monkeypatch.setattr(cxl_power, "MISSING", "libvirt")
    assert "libvirt" in power("off", "node1")["msg"]
