# SPDX-License-Identifier: GPL-3.0-or-later
"""The hypervisor as libvirt's own test driver plays it: real libvirt, pretended machines."""

from __future__ import annotations

import json
from pathlib import Path

import libvirt
import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.topology import libvirt_host
from ansible.module_utils.cxl_lab.topology.domain_xml import domain_xml
from ansible.module_utils.cxl_lab.topology.libvirt_host import LibvirtHost, tail
from ansible.module_utils.cxl_lab.topology.plan import LabPaths, Seen, plan_steps
from ansible.module_utils.cxl_lab.topology.store import Owner
from hypervisors import for_test_driver
from labs import machines_of, two_node


@pytest.fixture
def hypervisor(monkeypatch, tmp_path):
    """A hypervisor of this test's own."""
    # The test driver has no NVRAM and refuses to remove it.
    monkeypatch.setattr(libvirt, "VIR_DOMAIN_UNDEFINE_NVRAM", 0)
    monkeypatch.setattr(libvirt_host, "_LOGS", tmp_path)
    node = tmp_path / "node.xml"
    node.write_text("<node/>")
    return LibvirtHost(f"test://{node}")


@pytest.fixture
def connection(hypervisor):
    """What anybody else on this hypervisor has."""
    return hypervisor._connection


def xml_of(machine, ssh_port=4022):
    return for_test_driver(domain_xml(machine, LabPaths(machine.lab, Path("/nowhere")), ssh_port))


def machines(lab="two_node"):
    return machines_of(two_node(), lab)


def stranger(connection, name, metadata=""):
    """A domain that somebody else made."""
    return connection.defineXML(
        f"<domain type='test'><name>{name}</name>{metadata}<memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
    )


def test_no_libvirt_is_named():
    with pytest.raises(
        LabError, match=r"^libvirt at test:///no/such/file: .*; check that libvirtd runs and that you have the rights"
    ):
        LibvirtHost("test:///no/such/file")


def test_no_daemon_is_named(tmp_path):
    with pytest.raises(LabError, match=r"^libvirt at qemu\+unix:///system\?socket=/nowhere/sock: Failed to connect socket"):
        LibvirtHost("qemu+unix:///system?socket=/nowhere/sock")


def test_what_was_started_is_seen(hypervisor):
    first, second = machines()
    assert hypervisor.seen("two_node") == {}
    hypervisor.start(xml_of(first, 4001))
    hypervisor.start(xml_of(second, 4002))
    spec = json.loads(json.dumps(first.spec()))
    assert hypervisor.seen("two_node")["node1"] == Seen("running", spec, 4001)
    assert hypervisor.seen("two_node")["node2"].ssh_port == 4002
    assert plan_steps([first, second], hypervisor.seen("two_node")) == []


def test_another_lab_is_not_ours(hypervisor):
    hypervisor.start(xml_of(machines("a")[0]))
    assert hypervisor.seen("a").keys() == {"node1"}
    assert hypervisor.seen("a-b") == hypervisor.seen("b") == hypervisor.seen("") == {}


@pytest.mark.parametrize(
    ("act", "state"),
    [("suspend", "paused"), ("resume", "running"), ("destroy", "off"), ("shutdown", "off")],
)
def test_states(hypervisor, connection, act, state):
    hypervisor.start(xml_of(machines()[0]))
    domain = connection.lookupByName("cxl-lab.two_node.node1")
    if act == "resume":
        domain.suspend()
    getattr(domain, act)()
    assert hypervisor.seen("two_node")["node1"].state == state
    assert hypervisor.is_active("cxl-lab.two_node.node1") == (state != "off")


def test_a_paused_machine_goes_on(hypervisor, connection):
    hypervisor.start(xml_of(machines()[0]))
    connection.lookupByName("cxl-lab.two_node.node1").suspend()
    hypervisor.resume("cxl-lab.two_node.node1")
    assert hypervisor.seen("two_node")["node1"].state == "running"
    hypervisor.resume("cxl-lab.two_node.node1")
    hypervisor.resume("no-such-domain")
    assert hypervisor.is_active("no-such-domain") is False


def test_a_machine_that_is_off_starts_again(hypervisor, connection):
    """Its definition is replaced, for its port may be another one."""
    machine = machines()[0]
    hypervisor.start(xml_of(machine, 4001))
    domain = connection.lookupByName(machine.domain)
    identity = domain.UUIDString()
    domain.destroy()
    hypervisor.start(xml_of(machine, 4002))
    assert hypervisor.seen("two_node")["node1"] == Seen("running", json.loads(json.dumps(machine.spec())), 4002)
    assert connection.lookupByName(machine.domain).UUIDString() == identity
    assert [known.name() for known in connection.listAllDomains()] == [machine.domain]


def test_removal_is_complete_and_can_be_repeated(hypervisor, connection):
    machine = machines()[0]
    hypervisor.start(xml_of(machine))
    hypervisor.remove(machine.domain)
    assert hypervisor.seen("two_node") == {} and connection.listAllDomains() == []
    hypervisor.remove(machine.domain)


def test_a_machine_that_is_off_is_removed_too(hypervisor, connection):
    machine = machines()[0]
    hypervisor.start(xml_of(machine))
    connection.lookupByName(machine.domain).destroy()
    hypervisor.remove(machine.domain)
    assert hypervisor.seen("two_node") == {}


def test_a_removal_that_fails_says_so(hypervisor, monkeypatch):
    machine = machines()[0]
    hypervisor.start(xml_of(machine))
    monkeypatch.setattr(libvirt, "VIR_DOMAIN_UNDEFINE_NVRAM", 1 << 30)
    with pytest.raises(LabError, match=rf"^domain {machine.domain}: could not be removed: unsupported flags"):
        hypervisor.remove(machine.domain)


FOREIGN_MARK = "<metadata><other:x xmlns:other='https://example.org/' name='two_node' host='node1'/></metadata>"


@pytest.mark.parametrize("metadata", ["", FOREIGN_MARK])
def test_a_stranger_of_the_same_name_is_left_alone(hypervisor, connection, metadata):
    machine = machines()[0]
    stranger(connection, machine.domain, metadata).create()
    assert hypervisor.seen("two_node") == {}
    with pytest.raises(LabError, match=rf"^domain {machine.domain}: exists and was not made by cxl.lab; rename or remove it$"):
        hypervisor.start(xml_of(machine))
    hypervisor.remove(machine.domain)
    assert connection.lookupByName(machine.domain).isActive()


def mark(lab, host, port="4001", spec="{}"):
    """The metadata of a domain of a lab."""
    attributes = f"name='{lab}' host='{host}' ssh_port='{port}'"
    return f"<metadata><lab:lab xmlns:lab='https://cxl.lab/libvirt/1' {attributes}>{spec}</lab:lab></metadata>"


def test_a_copy_of_a_machine_is_not_the_machine(hypervisor, connection):
    """virt-clone takes the metadata along."""
    hypervisor.start(xml_of(machines()[0], 4001))
    stranger(connection, "my-copy", mark("two_node", "node1", "4009"))
    assert hypervisor.seen("two_node")["node1"].ssh_port == 4001


@pytest.mark.parametrize("host", ["", "..", "../../etc", "node2"])
def test_a_mark_that_does_not_fit_the_name_is_no_mark(hypervisor, connection, host):
    stranger(connection, "cxl-lab.two_node.node1", mark("two_node", host))
    assert hypervisor.seen("two_node") == {}


@pytest.mark.parametrize(
    ("port", "spec", "seen"),
    [
        ("4001", "{}", Seen("off", {}, 4001)),
        ("", "{}", Seen("off", {}, 0)),
        ("-1", "[]", Seen("off", None, 0)),
        ("\u00b2", "no json", Seen("off", None, 0)),
        ("40 01", "", Seen("off", None, 0)),
    ],
)
def test_metadata_that_somebody_edited(hypervisor, connection, port, spec, seen):
    stranger(connection, "cxl-lab.two_node.node1", mark("two_node", "node1", port, spec))
    assert hypervisor.seen("two_node") == {"node1": seen}


def test_a_domain_that_libvirt_refuses(hypervisor):
    with pytest.raises(LabError, match=r"^domain cxl-lab.two_node.node1: did not start: ") as caught:
        hypervisor.start(xml_of(machines()[0]).replace('type="test"', 'type="no-such-type"'))
    assert caught.value.observed == ""


def test_a_port_is_tried_after_another(hypervisor, connection, monkeypatch):
    """A start that failed is not in the way of the next one."""
    machine, create = machines()[0], libvirt.virDomain.create

    def taken(domain):
        raise libvirt.libvirtError("internal error: Could not set up host forwarding rule")

    monkeypatch.setattr(libvirt.virDomain, "create", taken)
    with pytest.raises(LabError, match="forwarding"):
        hypervisor.start(xml_of(machine, 4001))
    monkeypatch.setattr(libvirt.virDomain, "create", create)
    hypervisor.start(xml_of(machine, 4002))
    assert hypervisor.seen("two_node")["node1"].ssh_port == 4002


def test_a_start_that_fails_carries_the_words_of_the_emulator(hypervisor, monkeypatch):
    class Refusing:
        def create(self):
            raise libvirt.libvirtError("internal error: Could not set up host forwarding rule")

        def undefine(self):
            pass

    monkeypatch.setattr(LibvirtHost, "emulator_log", staticmethod(lambda name, lines=12: f"last words of {name}"))
    machine = machines()[0]
    monkeypatch.setattr(
        hypervisor, "_connection", type("C", (), {"lookupByName": lambda *_: None, "defineXML": lambda *_: Refusing()})()
    )
    with pytest.raises(LabError, match="did not start: internal error: Could not set up host forwarding rule") as caught:
        hypervisor.start(xml_of(machine))
    assert caught.value.observed == f"last words of {machine.domain}"


CAPABILITIES = """<capabilities><host>
<secmodel><model>apparmor</model><doi>0</doi></secmodel>
<secmodel><model>dac</model><doi>0</doi>
  <baselabel type='kvm'>{label}</baselabel><baselabel type='qemu'>{label}</baselabel></secmodel>
</host></capabilities>"""


def with_capabilities(hypervisor, monkeypatch, text):
    monkeypatch.setattr(hypervisor, "_connection", type("C", (), {"getCapabilities": lambda _: text})())
    hypervisor.__dict__.pop("_security_models", None)  # another hypervisor knows nothing of what this one was asked
    return hypervisor


def test_the_user_of_the_emulator(hypervisor, monkeypatch):
    assert hypervisor.emulator_user() == Owner(0, 0), "the test driver has none"
    assert hypervisor.confinement_models() == []
    real = with_capabilities(hypervisor, monkeypatch, CAPABILITIES.format(label="+64055:+108"))
    assert real.emulator_user() == Owner(64055, 108) and real.confinement_models() == ["apparmor"]


def test_errors_are_not_printed(capfd):
    with pytest.raises(LabError):
        LibvirtHost("nobody:///system")
    assert capfd.readouterr().err == ""


def test_tail(tmp_path):
    log = tmp_path / "log"
    assert tail(log, 3) == []
    log.write_bytes(b"one\n\ntwo  \n\xff\xfe\n indented\nLC_ALL=C long\nchar device redirected\nlast" + b"x" * 500 + b"\n")
    assert tail(log, 2) == ["char device redirected", "last" + "x" * 296]
    assert tail(log, 9)[:4] == ["one", "two", "\N{REPLACEMENT CHARACTER}" * 2, " indented"]
    log.write_text("early\n" + "line\n" * 10000)
    assert tail(log, 5) == ["line"] * 5


#: As libvirt 11.3 writes it.
LOG = """\
2026-11-20 11:24:44.014+0000: starting up libvirt version: 11.3.0, package: 11.3.0-2~bpo12+1 (Debian), qemu version: 11.1.3
LC_ALL=C \\
PATH=/usr/sbin:/usr/bin \\
/usr/bin/qemu-system-x86_64 \\
-name guest=cxl-lab.two_node.node1,debug-threads=on \\
-device cxl-type3,id=cxl-dev.pool0,bus=cxl-rp.0 \\
-msg timestamp=on
2026-11-20 11:24:44.014+0000: Domain id=1 is tainted: custom-argv
char device redirected to /dev/pts/1 (label charserial0)
2026-11-20T11:24:45.000000Z qemu-system-x86_64: -netdev user,id=control: Could not set up host forwarding rule
2026-11-20 11:24:46.014+0000: shutting down, reason=failed
"""


def test_the_words_of_the_emulator_are_not_those_of_libvirt(monkeypatch, tmp_path):
    monkeypatch.setattr(libvirt_host, "_LOGS", tmp_path)
    assert LibvirtHost.emulator_log("a") == ""
    (tmp_path / "a.log").write_text(LOG)
    assert LibvirtHost.emulator_log("a").splitlines() == [
        "2026-11-20T11:24:45.000000Z qemu-system-x86_64: -netdev user,id=control: Could not set up host forwarding rule",
        "2026-11-20 11:24:46.014+0000: shutting down, reason=failed",
    ]


def test_a_domain_that_never_ran_is_forgotten(hypervisor, monkeypatch):
    def refuse(_):
        raise libvirt.libvirtError("no such emulator")

    monkeypatch.setattr(libvirt.virDomain, "create", refuse)
    with pytest.raises(LabError, match="did not start"):
        hypervisor.start(xml_of(machines("a")[0]))
    assert hypervisor.seen("a") == {}
