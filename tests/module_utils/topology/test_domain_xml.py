# SPDX-License-Identifier: GPL-3.0-or-later
"""The domain as libvirt gets it, and QEMU's own opinion of it."""

from __future__ import annotations

import contextlib
import copy
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
from ansible.module_utils.cxl_lab.topology.domain_xml import (
    LAB_NAMESPACE,
    QEMU_NAMESPACE,
    credential_names,
    domain_xml,
    qemu_arguments,
)
from ansible.module_utils.cxl_lab.topology.lab import as_result, free_port
from ansible.module_utils.cxl_lab.topology.plan import LabPaths, Machine
from ansible.module_utils.cxl_lab.topology.store import Owner, Store
from ansible.module_utils.cxl_lab.topology.switches import start_switches, stop_switches
from hypothesis import HealthCheck, given, settings
from labs import PLATFORM, ROOT, inventory, machines_of, topologies, two_node, whole

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
PATHS = LabPaths("two_node", Path("/var/lib/cxl-lab/two_node"))


def domains(name: str, data) -> str:
    """All domains of a lab, as one document."""
    paths = LabPaths(name, Path(f"/var/lib/cxl-lab/{name}"))
    texts = [domain_xml(machine, paths, 40001 + index) for index, machine in enumerate(machines_of(data, name))]
    return "<domains>\n" + "\n".join(texts) + "\n</domains>\n"


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


@pytest.mark.parametrize("name", ["two_node", "switched", "whole"])
def test_a_lab_is_the_recorded_one(name):
    """After a wanted change: RECORD=1 .venv/bin/python -m pytest -k recorded tests/module_utils/topology/test_domain_xml.py"""
    golden, built = FIXTURES / f"{name}_domains.xml", domains(name, whole() if name == "whole" else inventory(name))
    if os.environ.get("RECORD"):
        golden.write_text(built, encoding="utf-8")
    assert built == golden.read_text(encoding="utf-8")


@settings(max_examples=40)
@given(topologies(several_networks=True))
def test_any_topology_is_well_formed_and_can_be_read_back(data):
    for machine in machines_of(data, "a"):
        root = ET.fromstring(domain_xml(machine, LabPaths("a", Path("/lab")), 4022))
        mark = root.find(f"metadata/{{{LAB_NAMESPACE}}}lab")
        assert json.loads(mark.text) == json.loads(json.dumps(machine.spec()))
        assert mark.attrib == {"name": "a", "host": machine.host.name, "ssh_port": "4022"}
        assert root.findtext("name") == machine.domain and int(root.findtext("memory")) == machine.host.memory


@settings(max_examples=40)
@given(topologies(several_networks=True))
def test_every_raw_device_says_where_it_is(data):
    for machine in machines_of(data):
        devices = options(arguments_of(domain_xml(machine, PATHS, 4022)), "device")
        devices = [device for device in devices if device[""] != "vmgenid"]  # is on no bus
        on_root = [device for device in devices if device["bus"] == "pcie.0"]
        slots = [int(device["addr"], 16) for device in on_root]
        assert len(set(slots)) == len(slots) and all(0x10 <= slot < 0x1F for slot in slots)
        assert {device[""] for device in on_root} <= {"virtio-net-pci", "pxb-cxl"}
        numbers = [(device["chassis"], device["slot"]) for device in devices if "chassis" in device]
        assert len(set(numbers)) == len(numbers)
        # Nothing comes before what it is plugged into, and no two things are plugged into one port.
        seen, taken = {"pcie.0"}, []
        for device in devices:
            assert device["bus"] in seen
            seen.add(device.get("id", ""))
            taken += [device["bus"]] if device[""] in ("cxl-type3", "cxl-upstream") else []
        assert len(set(taken)) == len(taken)


@settings(max_examples=40)
@given(topologies())
def test_each_memory_has_a_root_port_a_file_and_labels_of_its_own(data):
    for machine in machines_of(data):
        arguments = qemu_arguments(machine, PATHS, 4022)
        devices = {device["id"]: device for device in options(arguments, "device") if "id" in device}
        backends = {entry["id"]: entry for entry in options(arguments, "object")}
        assert len(backends) == sum(len(memory.parts) + bool(memory.size) for memory in machine.memories)
        assert all(entry["share"] == "on" for entry in backends.values())
        for memory in machine.memories:
            device = devices[f"cxl-dev.{memory.name}"]
            assert int(device["sn"], 16) == memory.serial and int(device.get("num-dc-regions", 0)) == memory.dc_regions
            for kind, key in (
                ("persistent", "persistent-memdev"),
                ("volatile", "volatile-memdev"),
                ("dynamic", "volatile-dc-memdev"),
            ):
                assert (key in device) == (kind in memory.parts)
                if key in device:
                    backend = backends[device[key]]
                    assert int(backend["size"]) == memory.parts[kind]
                    assert backend["mem-path"] == str(PATHS.backing(memory, kind))
                    assert int(backend.get("offset", 0)) == memory.offset
            assert ("lsa" in device) == bool(memory.size)
            assert not memory.size or int(backends[device["lsa"]]["size"]) == memory.lsa_size


def test_hosts_share_the_memory_and_nothing_else():
    files = [{entry["mem-path"] for entry in options(qemu_arguments(m, PATHS, 4022), "object")} for m in machines_of(two_node())]
    assert files[0] & files[1] == {"/dev/shm/cxl-lab.two_node.pool0"} and len(files[0]) == len(files[1]) == 2


def test_the_lab_network_is_a_cable():
    first, second = (options(qemu_arguments(m, PATHS, 4022), "netdev")[1] for m in machines_of(two_node()))
    assert first["local.path"] == second["remote.path"] != first["remote.path"] == second["local.path"]
    (alone,) = machines_of({"hosts": [{"name": "a"}]})
    assert [netdev["id"] for netdev in options(qemu_arguments(alone, PATHS, 4022), "netdev")] == ["control"]


def test_three_hosts_are_plugged_into_one_switch():
    machines = machines_of({"hosts": [{"name": name} for name in "abc"]}, "two_node")
    plugs = [options(qemu_arguments(machine, PATHS, 4022), "netdev")[1] for machine in machines]
    assert {(plug[""], plug["sock"]) for plug in plugs} == {("vde", "/var/lib/cxl-lab/two_node/net/lab.switch")}
    assert len({machine.address for machine in machines}) == 3


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


@pytest.mark.parametrize(("accel", "told"), [("tcg", True), ("kvm", False)])
def test_the_clock_of_emulated_processors_is_trusted(accel, told):
    """A processor that is real says itself how good its clock is."""
    (machine, _) = machines_of(two_node(), platform=replace(PLATFORM, accel=accel))
    assert ("tsc=reliable" in ET.fromstring(domain_xml(machine, PATHS, 4022)).findtext("os/cmdline").split()) == told


def test_credentials_go_by_file():
    for machine in machines_of(two_node()):
        root = ET.fromstring(domain_xml(machine, PATHS, 4022))
        entries = root.findall("sysinfo/entry")
        assert entries and all(
            entry.get("file", "").startswith("/var/lib/cxl-lab/two_node/hosts/") and not entry.text for entry in entries
        )
        words = root.findtext("os/cmdline") + " ".join(arguments_of(ET.tostring(root, encoding="unicode")))
        assert not any(word in words for word in ("ssh-ed25519", "PRIVATE", "credential", "fw_cfg", "smbios"))


@pytest.mark.parametrize(("others", "words"), [([], []), ([{"name": "e", "dynamic": "512M"}], ["iomem=relaxed"])])
def test_a_guest_reaches_the_registers_of_a_bridge_only_where_its_daemon_programs_them(others, words):
    """And a machine that has no such bridge is not built again because others can have one."""
    data = {"hosts": [{"name": "n", "kernel_options": ["quiet"]}], "memories": [{"name": "d", "dynamic": "512M"}, *others]}
    (machine,) = machines_of(data)
    line = ET.fromstring(domain_xml(machine, PATHS, 4022)).findtext("os/cmdline").split()
    assert line[line.index("systemd.hostname=n") + 1 :] == ["tsc=reliable", *words, "quiet"]
    assert ("programmed" in machine.spec()["fabric"]) == bool(words)


@pytest.mark.parametrize(("name", "told"), [("node1", "node1"), ("node_1", "node-1"), ("a-b_-", "a-b")])
def test_a_guest_gets_a_name_that_systemd_takes(name, told):
    """It ignores one with an underscore or a hyphen at the end, and the guest would be called as its image is."""
    (machine,) = machines_of({"hosts": [{"name": name}]})
    line = ET.fromstring(domain_xml(machine, PATHS, 4022)).findtext("os/cmdline").split()
    assert f"systemd.hostname={told}" in line


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


#: Another value for every key, in the entry of ``whole`` at this index.
OTHERS = {
    "hosts": (
        0,
        {
            **{"memory": "3G", "cpus": 3, "ssh_port": 4999, "accel": "kvm", "gdb_port": 5999},
            **{"emulator": "/opt/qemu", "kernel": "/opt/bzImage", "initrd": "/opt/initrd"},
            **{"kernel_options": ["quiet"], "qemu_arguments": ["-device", "edu"], "extra_packages": ["gdb"]},
        },
    ),
    "memories": (
        7,
        {
            **{
                "name": "p1",
                "size": "512M",
                "volatile": "256M",
                "dynamic": "256M",
                "dc_regions": 2,
                "serial": 7,
                "lsa_size": "2M",
            },
            **{"hosts": ["node2"], "parent": "s", "port": 0, "pool": "other", "offset": "512M", "heads": 16},
        },
    ),
    "pools": (0, {"name": "others", "size": "2G"}),
    "bridges": (2, {"name": "d", "ports": 3, "bus": 200, "hdm_for_passthrough": True, "hosts": ["node1"]}),
    "switches": (0, {"name": "t", "parent": "b", "port": 1, "ports": 6}),
    "windows": (0, {"size": "4G", "targets": ["b", "a"], "granularity": 4096}),
    "networks": (1, {"name": "rear", "subnet": "10.91.0.0/24", "kind": "cable", "hosts": ["node2"]}),
}


def change(section: str, key: str):
    """The topology with one key changed, and one that differs from it in that key alone."""
    index, values = OTHERS[section]
    before = whole()
    entry = before[section][index]
    if (section, key) in (("hosts", "name"), ("pools", "name"), ("bridges", "name"), ("switches", "name")):
        text = json.dumps(before).replace(json.dumps(entry["name"]), json.dumps(values.get("name", "other")))
        return before, json.loads(text)
    if section == "memories" and key == "pool":
        before["pools"].append({"name": "other", "size": "1G"})
    if section == "memories" and key in ("volatile", "dynamic", "dc_regions"):  # of several kinds, or of dynamic capacity
        entry = before[section][6]
        values = {**values, "volatile": "512M", "dynamic": "1G", "dc_regions": 1}
    if section == "memories" and key == "hosts":
        before["bridges"][2]["hosts"] = ["node1", "node2"]
    if section == "memories" and key == "parent":
        before["switches"][0]["ports"] = 5
    if section == "memories" and key == "port":
        before["bridges"][2]["ports"] = 2
        values = {**values, "port": 1}
    if section == "bridges" and key == "hosts":
        before["memories"][7]["hosts"] = ["node1"]
    if section == "switches" and key in ("parent", "port"):
        before["switches"][0].update(port=None)
        before["bridges"][0]["ports"] = before["bridges"][1]["ports"] = 4
        entry.pop("port")
    after = copy.deepcopy(before)
    after[section][before[section].index(entry)][key] = values[key]
    return before, after


def built(data, folder: Path):
    """What a topology comes to, without the record that is kept of it: domains, files of guests and shared memory, results."""
    machines = machines_of(data)
    paths = LabPaths("two_node", folder, folder)
    owner = Owner(folder.stat().st_uid, folder.stat().st_gid)
    store = Store(paths, HostRunner(), owner, owner)
    store.prepare_lab(machines)
    domains, files = [], [(file.name, file.stat().st_size) for file in sorted(folder.glob("cxl-lab.*"))]
    for machine in machines:
        root = ET.fromstring(domain_xml(machine, paths, machine.host.ssh_port or 4022))
        root.remove(root.find("metadata"))
        domains.append(ET.tostring(root, encoding="unicode").replace(str(folder), ""))
        credentials = store._credentials(machine, machines)
        files.append(machine.platform.disk)  # what its own disk is laid over
        files += [text for name, text in sorted(credentials.items()) if "network" in name or "tmpfiles" in name]
    return domains, files, [(host["name"], host["memories"]) for host in as_result(machines, {})]


SCHEMA = json.loads((ROOT / "docs/topology.schema.json").read_text(encoding="utf-8"))


def keys_of(schema) -> dict[str, list[str]]:
    """Every key that the published schema lets a user write: those of the entries of each list, and no more for a short form."""
    return {
        name: list(form["items"]["properties"]) if form.get("type") == "array" else []
        for name, form in schema["properties"].items()
    }


LISTS = {section: keys for section, keys in keys_of(SCHEMA).items() if keys}
KEYS = [(section, key) for section, keys in LISTS.items() for key in keys]
#: Another value for every short form.
SHORT_FORMS = {"window": "8G", "network": "10.78.0.0/24"}


def test_another_value_is_known_for_every_key_of_the_schema():
    known = {section: {*values, *(["name"] if "name" in LISTS[section] else [])} for section, (_, values) in OTHERS.items()}
    assert known == {section: set(keys) for section, keys in LISTS.items()}, "a key without a test that it changes what is built"
    assert set(SHORT_FORMS) == {name for name, keys in keys_of(SCHEMA).items() if not keys}
    nested = [form for section in LISTS for form in SCHEMA["properties"][section]["items"]["properties"].values()]
    assert not [form for form in nested if "properties" in form or "properties" in form.get("items", {})], "walk these, too"


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
@pytest.mark.parametrize(("section", "key"), KEYS, ids=[".".join(pair) for pair in KEYS])
def test_every_key_of_a_topology_changes_what_is_built(section, key, tmp_path):
    results = []
    for name, data in zip(("before", "after"), change(section, key)):
        (tmp_path / name).mkdir()
        results.append((built(data, tmp_path / name), [machine.spec() for machine in machines_of(data)]))
    assert results[0][0] != results[1][0]
    kept_elsewhere = {("hosts", "ssh_port"), ("pools", "size")}  # the port is in the domain, the size in the file
    assert (results[0][1] != results[1][1]) == ((section, key) not in kept_elsewhere)


@pytest.mark.parametrize(("key", "value"), SHORT_FORMS.items())
def test_the_short_forms_change_what_is_built(key, value, tmp_path):
    results = []
    for name, size in (("before", None), ("after", value)):
        (tmp_path / name).mkdir()
        results.append(built({**two_node(), key: size}, tmp_path / name))
    assert results[0] != results[1]


def test_a_domain_differs_from_that_of_another_host_only_in_its_own_things():
    """A host that joins changes nothing for those that run, if the network is a switch."""
    network = [{"name": "lab", "kind": "switch"}]
    memories = [{"name": "pool0", "size": "512M"}]
    two, three = (
        machines_of({"hosts": [{"name": name} for name in names], "memories": memories, "networks": network})
        for names in ("ab", "abc")
    )
    assert [machine.spec() for machine in two] == [machine.spec() for machine in three[:2]]


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
    for name in credential_names(machine):  # as libvirt gives them
        command += ["-fw_cfg", f"name=opt/io.systemd.credentials/{name},string=x"]
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


def starts(data, folder: Path) -> None:
    """Starts the QEMU of each host and asks it for what the topology says."""
    paths = LabPaths("a", folder, folder, folder)
    paths.network.mkdir()
    machines = machines_of(data, "a")
    for memory in (memory for machine in machines for memory in machine.memories):
        for kind in memory.parts:
            size = machines[0].pools.get(memory.pool, memory.parts[kind])
            with paths.backing(memory, kind).open("ab") as file:
                file.truncate(size)
    owner = Owner(os.getuid(), os.getgid())
    start_switches(paths, machines, owner)
    try:
        for machine in machines:
            paths.host(machine.host.name).mkdir(parents=True)
            with frozen(machine, paths) as ask:
                check_devices(machine, paths, ask)
    finally:
        stop_switches(paths)


def check_devices(machine: Machine, paths: LabPaths, ask) -> None:
    assert ask("query-status")["return"]["status"] == "prelaunch"
    assert len(ask("query-cpus-fast")["return"]) == machine.host.cpus
    there = {entry["name"] for entry in ask("qom-list", path="/machine/peripheral")["return"]}
    assert {f"cxl-dev.{memory.name}" for memory in machine.memories} == {name for name in there if name.startswith("cxl-dev.")}
    assert {f"cxl-hb.{bridge.name}" for bridge in machine.fabric.bridges} == {
        name for name in there if name.startswith("cxl-hb.")
    }
    assert len([name for name in there if name.startswith(("cxl-rp.", "cxl-ds."))]) == len(machine.fabric.ports)
    for memory in machine.memories:
        assert ask("qom-get", path=f"/machine/peripheral/cxl-dev.{memory.name}", property="sn") == {"return": memory.serial}
        for kind, size in memory.parts.items():
            backend = f"/objects/cxl-{'mem' if kind == 'persistent' else kind}.{memory.name}"
            assert ask("qom-get", path=backend, property="size") == {"return": size}


@real_qemu
@pytest.mark.skipif(shutil.which("vde_switch") is None, reason="vde_switch is not installed")
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(topologies(max_cpus=8, several_networks=True))
def test_qemu_starts_what_was_found_valid(data):
    with tempfile.TemporaryDirectory() as folder:
        starts(data, Path(folder))


@real_qemu
@pytest.mark.skipif(shutil.which("vde_switch") is None, reason="vde_switch is not installed")
@pytest.mark.parametrize("name", ["switched", "whole"])
def test_qemu_starts_a_whole_fabric(name, tmp_path):
    starts(whole() if name == "whole" else inventory(name), tmp_path)


@real_qemu
@pytest.mark.parametrize("window", ["256M", "512G"])
def test_qemu_takes_the_smallest_and_the_largest_window(window, tmp_path):
    data = {"hosts": [{"name": "a"}], "memories": [{"name": "m", "size": "256M", "serial": 1}], "window": window}
    paths = LabPaths("a", tmp_path, tmp_path)
    paths.host("a").mkdir(parents=True)
    with frozen(machines_of(data, "a")[0], paths) as ask:
        assert ask("query-status")["return"]["status"] == "prelaunch"


LONGEST = "n" * 32


@real_qemu
@pytest.mark.skipif(shutil.which("vde_switch") is None, reason="vde_switch is not installed")
@pytest.mark.parametrize("kind", ["cable", "switch"])
def test_qemu_takes_the_longest_names(kind):
    data = {
        "hosts": [{"name": LONGEST}, {"name": "b"}],
        "memories": [{"name": LONGEST, "size": "256M", "volatile": "256M", "parent": LONGEST.replace("n", "s")}],
        "bridges": [{"name": LONGEST}],
        "switches": [{"name": LONGEST.replace("n", "s"), "parent": LONGEST}],
        "networks": [{"name": "front"}, {"name": LONGEST, "kind": kind}],
    }
    with tempfile.TemporaryDirectory() as folder:
        starts(data, Path(folder))


@real_qemu
def test_qemu_takes_a_comma_in_a_path(tmp_path):
    paths = LabPaths("a", tmp_path / "l,ab", tmp_path / "s,hm")
    for folder in (paths.network, paths.host("node1"), paths.shared):
        folder.mkdir(parents=True)
    with frozen(machines_of(two_node(), "a")[0], paths) as ask:
        assert ask("query-status")["return"]["status"] == "prelaunch"
    assert paths.memory("pool0").stat().st_size == 512 << 20 and (paths.host("node1") / "pool0.lsa").stat().st_size == 1 << 20
