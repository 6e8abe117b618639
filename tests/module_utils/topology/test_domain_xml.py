# SPDX-License-Identifier: GPL-3.0-or-later
"""The domain as libvirt gets it, and QEMU's own opinion of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ansible.module_utils.cxl_lab.runner import HostRunner
from ansible.module_utils.cxl_lab.topology.domain_xml import LAB_NAMESPACE, QEMU_NAMESPACE, domain_xml, qemu_arguments
from ansible.module_utils.cxl_lab.topology.lab import free_port
from ansible.module_utils.cxl_lab.topology.model import parse_topology
from ansible.module_utils.cxl_lab.topology.plan import LabPaths, Machine
from ansible.module_utils.cxl_lab.topology.store import Owner, Store
from hypothesis import HealthCheck, given, settings
from labs import PLATFORM, machines_of, topologies, two_node

GOLDEN = Path(__file__).resolve().parents[2] / "fixtures" / "two_node_domains.xml"
PATHS = LabPaths("two_node", Path("/var/lib/cxl-lab/two_node"))


def two_node_domains() -> str:
    """Both domains of the default lab, as one document."""
    domains = [domain_xml(machine, PATHS, 40001 + index) for index, machine in enumerate(machines_of(two_node()))]
    return "<domains>\n" + "\n".join(domains) + "\n</domains>\n"


def arguments_of(xml: str) -> list[str]:
    """The raw QEMU arguments of a domain."""
    return [element.get("value") for element in ET.fromstring(xml).iter(f"{{{QEMU_NAMESPACE}}}arg")]


def options(arguments: list[str], name: str) -> list[dict[str, str]]:
    """The values of all options of this name, taken apart as QEMU does it; the first word of a value has the key ""."""
    found = []
    for option, value in zip(arguments[::2], arguments[1::2]):
        if option == f"-{name}":
            parts = [part.replace("\0", ",").partition("=") for part in value.replace(",,", "\0").split(",")]
            found.append({(key if equals else ""): (text if equals else key) for key, equals, text in parts})
    return found


def test_the_default_lab_is_the_recorded_one():
    """After a wanted change: RECORD=1 .venv/bin/python -m pytest -k recorded tests/module_utils/topology/test_domain_xml.py"""
    if os.environ.get("RECORD"):
        GOLDEN.write_text(two_node_domains(), encoding="utf-8")
    assert two_node_domains() == GOLDEN.read_text(encoding="utf-8")


@settings(max_examples=40)
@given(topologies())
def test_any_topology_is_well_formed_and_can_be_read_back(data):
    for machine in machines_of(data, "a"):
        root = ET.fromstring(domain_xml(machine, LabPaths("a", Path("/lab")), 4022))
        mark = root.find(f"metadata/{{{LAB_NAMESPACE}}}lab")
        assert json.loads(mark.text) == json.loads(json.dumps(machine.spec()))
        assert mark.attrib == {"name": "a", "host": machine.host.name, "ssh_port": "4022"}
        assert root.findtext("name") == machine.domain and int(root.findtext("memory")) == machine.host.memory


@settings(max_examples=40)
@given(topologies())
def test_every_raw_device_says_where_it_is(data):
    for machine in machines_of(data):
        devices = options(arguments_of(domain_xml(machine, PATHS, 4022)), "device")
        on_root = [device for device in devices if device["bus"] == "pcie.0"]
        slots = [int(device["addr"], 16) for device in on_root]
        assert len(set(slots)) == len(slots) and all(0x10 <= slot < 0x20 for slot in slots)
        assert {device[""] for device in on_root} <= {"virtio-net-pci", "pxb-cxl"}
        ports = [device for device in devices if device[""] == "cxl-rp"]
        assert all(port["bus"] == "cxl.0" for port in ports)
        assert len({(port["chassis"], port["slot"]) for port in ports}) == len({port["port"] for port in ports}) == len(ports)
        memories = [device for device in devices if device[""] == "cxl-type3"]
        assert {memory["bus"] for memory in memories} <= {port["id"] for port in ports}
        assert len(devices) == len(on_root) + len(ports) + len(memories)


@settings(max_examples=40)
@given(topologies())
def test_each_memory_has_a_root_port_a_file_and_labels_of_its_own(data):
    for machine in machines_of(data):
        arguments = qemu_arguments(machine, PATHS, 4022)
        devices = options(arguments, "device")
        backends = {entry["id"]: entry for entry in options(arguments, "object")}
        memories = [device for device in devices if device[""] == "cxl-type3"]
        assert len({memory["bus"] for memory in memories}) == len(memories) == len(machine.memories)
        assert len({entry["mem-path"] for entry in backends.values()}) == len(backends) == 2 * len(memories)
        assert not memories or sum(device[""] == "cxl-rp" for device in devices) >= 2
        for device, memory in zip(memories, machine.memories):
            data_file, labels = backends[device["persistent-memdev"]], backends[device["lsa"]]
            assert (int(data_file["size"]), int(labels["size"]), int(device["sn"], 16)) == (
                memory.size,
                memory.lsa_size,
                memory.serial,
            )
            assert data_file["mem-path"] == str(PATHS.memory(memory.name)) and data_file["share"] == labels["share"] == "on"


def test_hosts_share_the_memory_and_nothing_else():
    files = [{entry["mem-path"] for entry in options(qemu_arguments(m, PATHS, 4022), "object")} for m in machines_of(two_node())]
    assert files[0] & files[1] == {"/dev/shm/cxl-lab.two_node.pool0"} and len(files[0]) == len(files[1]) == 2


def test_the_lab_network_is_a_cable():
    first, second = (options(qemu_arguments(m, PATHS, 4022), "netdev")[1] for m in machines_of(two_node()))
    assert first["local.path"] == second["remote.path"] != first["remote.path"] == second["local.path"]
    (alone,) = machines_of({"hosts": [{"name": "a"}]})
    assert [netdev["id"] for netdev in options(qemu_arguments(alone, PATHS, 4022), "netdev")] == ["control"]


def test_the_only_way_in_is_a_loopback_port():
    for machine in machines_of(two_node()):
        control = options(qemu_arguments(machine, PATHS, 4022), "netdev")[0]
        assert control["restrict"] == "on" and control["hostfwd"] == "tcp:127.0.0.1:4022-:22"


@pytest.mark.parametrize(("accel", "kind", "cpu"), [("tcg", "qemu", "maximum"), ("kvm", "kvm", "host-passthrough")])
def test_the_hypervisor_bit_is_hidden_with_every_accelerator(accel, kind, cpu):
    (machine, _) = machines_of(two_node(), platform=replace(PLATFORM, accel=accel))
    root = ET.fromstring(domain_xml(machine, PATHS, 4022))
    assert root.get("type") == kind and root.find("cpu").get("mode") == cpu
    assert [feature.attrib for feature in root.find("cpu")] == [{"policy": "disable", "name": "hypervisor"}]


def test_credentials_go_by_file():
    for machine in machines_of(two_node()):
        root = ET.fromstring(domain_xml(machine, PATHS, 4022))
        entries = root.findall("sysinfo/entry")
        assert entries and all(
            entry.get("file", "").startswith("/var/lib/cxl-lab/two_node/hosts/") and not entry.text for entry in entries
        )
        words = root.findtext("os/cmdline") + " ".join(arguments_of(ET.tostring(root, encoding="unicode")))
        assert not any(word in words for word in ("ssh-ed25519", "PRIVATE", "credential", "fw_cfg", "smbios"))


def test_confinement_is_lifted_only_where_there_is_one():
    (machine, _) = machines_of(two_node())
    assert ET.fromstring(domain_xml(machine, PATHS, 4022)).findall("seclabel") == []
    labels = ET.fromstring(domain_xml(machine, PATHS, 4022, ["apparmor"])).findall("seclabel")
    assert [label.attrib for label in labels] == [{"type": "none", "model": "apparmor"}]


def test_a_comma_in_a_path_is_no_option():
    """QEMU takes two for one; a single one would begin another option."""
    paths = LabPaths("a", Path("/lab,readonly=on"), Path("/shm,share=off"))
    arguments = qemu_arguments(machines_of(two_node(), "a")[0], paths, 4022)
    memory, labels = options(arguments, "object")
    assert (
        memory["mem-path"] == "/shm,share=off/cxl-lab.a.pool0" and labels["mem-path"] == "/lab,readonly=on/hosts/node1/pool0.lsa"
    )
    assert options(arguments, "netdev")[1]["local.path"] == "/lab,readonly=on/net/node1.sock"
    assert memory["share"] == labels["share"] == "on" and "readonly" not in labels


def test_text_in_xml_is_quoted():
    machine = machines_of(two_node(), platform=replace(PLATFORM, kernel="/a<b>&\"'/vmlinuz"))[0]
    root = ET.fromstring(domain_xml(machine, LabPaths("a", Path("/l\"'<&>")), 4022))
    assert root.findtext("os/kernel") == "/a<b>&\"'/vmlinuz"
    assert root.find("devices/disk/source").get("file") == "/l\"'<&>/hosts/node1/disk.qcow2"


def set_first(key, value):
    """Changes one key of the first entry of a list."""
    section, key = key.split(".")

    def change(data):
        data[section][0][key] = value

    return change


def rename(data):
    data["hosts"][0]["name"] = "other"
    data["memories"][0]["hosts"] = ["other", "node2"]


CHANGES = {
    "hosts.name": rename,
    "hosts.memory": set_first("hosts.memory", "3G"),
    "hosts.cpus": set_first("hosts.cpus", 3),
    "hosts.ssh_port": set_first("hosts.ssh_port", 4999),
    "memories.name": set_first("memories.name", "other"),
    "memories.size": set_first("memories.size", "1G"),
    "memories.serial": set_first("memories.serial", 7),
    "memories.lsa_size": set_first("memories.lsa_size", "2M"),
    "memories.hosts": set_first("memories.hosts", ["node2"]),
    "window": lambda data: data.update(window="8G"),
    "network": lambda data: data.update(network="10.78.0.0/24"),
}


def built(data, folder: Path) -> tuple[list[str], list[str]]:
    """What a topology comes to, without the record that is kept of it: domains, and files that the guests read."""
    machines = machines_of(data)
    paths = LabPaths("two_node", folder, folder)
    store = Store(
        paths,
        HostRunner(),
        Owner(*(folder.stat().st_uid, folder.stat().st_gid)),
        Owner(folder.stat().st_uid, folder.stat().st_gid),
    )
    store.prepare_lab(machines)
    domains, files = [], []
    for machine in machines:
        root = ET.fromstring(domain_xml(machine, paths, machine.host.ssh_port or 4022))
        root.remove(root.find("metadata"))
        domains.append(ET.tostring(root, encoding="unicode").replace(str(folder), ""))
        credentials = store._credentials(machine, machines)
        files += [credentials[name] for name in ("network.network.30-lab", "tmpfiles.extra")]
    return domains, files


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize("key", CHANGES)
def test_every_key_of_a_topology_changes_what_is_built(key, tmp_path):
    data = two_node()
    CHANGES[key](data)
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
    before, after = built(two_node(), tmp_path / "before"), built(data, tmp_path / "after")
    assert before != after
    if key != "network":
        assert before[0] != after[0]
    recorded = [[machine.spec() for machine in machines_of(topology)] for topology in (two_node(), data)]
    assert (recorded[0] != recorded[1]) == (key != "hosts.ssh_port")


def test_no_key_is_missing_from_the_table_above():
    wrong = {"hosts": [{"x": 1}], "memories": [{"x": 1}], "x": 1}
    with pytest.raises(Exception, match="unknown key") as caught:
        parse_topology(wrong)
    lines = [line for line in str(caught.value).splitlines() if "unknown key" in line]
    known = {line.strip(" -").split(":")[0].split("[")[0]: line.rpartition("; use ")[2].split(", ") for line in lines}
    keys = {f"{section}.{key}" for section in ("hosts", "memories") for key in known[section]}
    assert keys | {"window", "network"} == set(CHANGES)
    assert set(known["cxl_topology"]) == {"hosts", "memories", "window", "network"}


@pytest.mark.skipif(shutil.which("virt-xml-validate") is None, reason="virt-xml-validate is not installed")
def test_libvirt_knows_every_element(tmp_path):
    for index, machine in enumerate(machines_of(two_node())):
        file = tmp_path / f"{index}.xml"
        file.write_text(domain_xml(machine, PATHS, 4022, ["apparmor"]), encoding="utf-8")
        done = subprocess.run(["virt-xml-validate", str(file), "domain"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


EMULATORS = sorted(Path("/var/cache/cxl-lab").glob("qemu-*/bin/qemu-system-x86_64"))
real_qemu = pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it")


@contextlib.contextmanager
def frozen(machine: Machine, paths: LabPaths):
    """The machine's QEMU with its CPUs stopped; a function that asks it by QMP."""
    command = [
        str(EMULATORS[0]),
        "-machine",
        "q35,accel=tcg",
        "-cpu",
        "max,hypervisor=off",
        "-S",
        "-nodefaults",
        "-display",
        "none",
    ]
    command += ["-m", f"{machine.host.memory // (1 << 20)}M", "-smp", str(machine.host.cpus), "-qmp", "stdio"]
    command += qemu_arguments(machine, paths, free_port())
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:

            def ask(command: str, **arguments):
                process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                process.stdin.flush()
                for line in process.stdout:
                    answer = json.loads(line)
                    if "return" in answer or "error" in answer:
                        return answer
                raise AssertionError(process.stderr.read())

            with contextlib.suppress(BrokenPipeError):
                ask("qmp_capabilities")
            yield ask
        finally:
            process.kill()


@real_qemu
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(topologies(max_cpus=8))
def test_qemu_starts_what_was_found_valid(data):
    with tempfile.TemporaryDirectory() as folder:
        paths = LabPaths("a", Path(folder), Path(folder))
        paths.network.mkdir()
        for machine in machines_of(data, "a"):
            paths.host(machine.host.name).mkdir(parents=True)
            with frozen(machine, paths) as ask:
                assert ask("query-status")["return"]["status"] == "prelaunch"
                assert len(ask("query-cpus-fast")["return"]) == machine.host.cpus
                for memory in machine.memories:
                    device, backend = f"/machine/peripheral/cxl-dev.{memory.name}", f"/objects/cxl-mem.{memory.name}"
                    assert ask("qom-get", path=device, property="sn") == {"return": memory.serial}
                    assert ask("qom-get", path=backend, property="size") == {"return": memory.size}
                    assert paths.memory(memory.name).stat().st_size == memory.size


@real_qemu
@pytest.mark.parametrize("window", ["256M", "512G"])
def test_qemu_takes_the_smallest_and_the_largest_window(window, tmp_path):
    data = {"hosts": [{"name": "a"}], "memories": [{"name": "m", "size": "256M", "serial": 1}], "window": window}
    paths = LabPaths("a", tmp_path, tmp_path)
    paths.host("a").mkdir(parents=True)
    with frozen(machines_of(data, "a")[0], paths) as ask:
        assert ask("query-status")["return"]["status"] == "prelaunch"


@real_qemu
def test_qemu_takes_a_comma_in_a_path(tmp_path):
    paths = LabPaths("a", tmp_path / "l,ab", tmp_path / "s,hm")
    for folder in (paths.network, paths.host("node1"), paths.shared):
        folder.mkdir(parents=True)
    with frozen(machines_of(two_node(), "a")[0], paths) as ask:
        assert ask("query-status")["return"]["status"] == "prelaunch"
    assert paths.memory("pool0").stat().st_size == 512 << 20 and (paths.host("node1") / "pool0.lsa").stat().st_size == 1 << 20
