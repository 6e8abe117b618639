# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine as a libvirt domain.

libvirt has no elements for CXL, so the CXL fabric and the two networks are raw QEMU arguments. libvirt does not know the
addresses that these take on the root bus; each is given explicitly, far above those that libvirt assigns by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence
from xml.etree import ElementTree as ET

from .plan import LabPaths, Machine

LAB_NAMESPACE = "https://cxl.lab/libvirt/1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
#: Slots on the root bus. The guest's network files match the control NIC by the name that follows from its slot (enp0s16).
CONTROL_SLOT, LAB_SLOT, BRIDGE_SLOT = 0x10, 0x11, 0x18
#: Quick and quiet: the console is a log file, and no guest defends itself against its own processes.
KERNEL_OPTIONS = "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=0 mitigations=off audit=0 random.trust_cpu=on"
#: Bus numbers from here on belong to the CXL host bridge; libvirt's own root ports take the low ones.
BRIDGE_BUS = 64

ET.register_namespace("lab", LAB_NAMESPACE)
ET.register_namespace("qemu", QEMU_NAMESPACE)


def domain_xml(machine: Machine, paths: LabPaths, ssh_port: int, mac_models: Sequence[str] = ()) -> str:
    """The whole domain.

    :param ssh_port: loopback port that is forwarded to the guest's sshd.
    :param mac_models: mandatory access control models of the hypervisor ("apparmor", "selinux"). Their libvirt profiles know
        nothing of shared memory files, labels or an emulator outside the system, so the domain is not confined by them.
    """
    folder = paths.host(machine.host.name)
    domain = ET.Element("domain", type="kvm" if machine.platform.accel == "kvm" else "qemu")
    _text(domain, "name", machine.domain)
    lab = ET.SubElement(ET.SubElement(domain, "metadata"), f"{{{LAB_NAMESPACE}}}lab")
    lab.attrib.update(name=machine.lab, host=machine.host.name, ssh_port=str(ssh_port))
    lab.text = json.dumps(machine.spec(), sort_keys=True)
    _text(domain, "memory", str(machine.host.memory), unit="b")
    _text(domain, "vcpu", str(machine.host.cpus))
    _firmware(domain, machine, folder)
    _text(ET.SubElement(domain, "features"), "acpi", None)
    cpu = ET.SubElement(domain, "cpu", mode="host-passthrough" if machine.platform.accel == "kvm" else "maximum")
    # With the bit visible, no stock kernel commits a region: "Failed to synchronize CPU cache state".
    ET.SubElement(cpu, "feature", policy="disable", name="hypervisor")
    _text(domain, "on_poweroff", "destroy")
    _text(domain, "on_reboot", "restart")
    _text(domain, "on_crash", "destroy")
    _devices(domain, machine, folder)
    for model in mac_models:
        ET.SubElement(domain, "seclabel", type="none", model=model)
    arguments = ET.SubElement(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    for argument in qemu_arguments(machine, paths, ssh_port):
        ET.SubElement(arguments, f"{{{QEMU_NAMESPACE}}}arg", value=argument)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def _text(parent: ET.Element, tag: str, text: str | None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _firmware(domain: ET.Element, machine: Machine, folder: Path) -> None:
    boot = ET.SubElement(domain, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine="q35")
    _text(boot, "kernel", machine.platform.kernel)
    _text(boot, "initrd", machine.platform.initrd)
    _text(boot, "cmdline", f"{KERNEL_OPTIONS} systemd.hostname={machine.host.name}")
    # Credentials by file: a key on a command line could be read by every user of the hypervisor.
    system = ET.SubElement(domain, "sysinfo", type="fwcfg")
    for credential in CREDENTIALS:
        ET.SubElement(
            system, "entry", name=f"opt/io.systemd.credentials/{credential}", file=str(folder / "credentials" / credential)
        )


#: What a guest learns about itself when it boots; see systemd.system-credentials(7).
CREDENTIALS = ("ssh.authorized_keys.root", "cxl-lab.ssh-host-key", "network.network.30-lab", "tmpfiles.extra")


def _devices(domain: ET.Element, machine: Machine, folder: Path) -> None:
    devices = ET.SubElement(domain, "devices")
    _text(devices, "emulator", machine.platform.emulator)
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    # A lab's disk is made again from its image at will; waiting for the hypervisor's disk would only cost time.
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", cache="unsafe", discard="unmap")
    ET.SubElement(disk, "source", file=str(folder / "disk.qcow2"))
    ET.SubElement(disk, "target", dev="vda", bus="virtio")
    serial = ET.SubElement(devices, "serial", type="file")
    ET.SubElement(serial, "source", path=str(folder / "serial.log"))
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")


def qemu_arguments(machine: Machine, paths: LabPaths, ssh_port: int) -> list[str]:
    """What libvirt cannot say: the networks and the CXL fabric."""
    return [*_network_arguments(machine, paths, ssh_port), *(_cxl_arguments(machine, paths) if machine.memories else [])]


def _network_arguments(machine: Machine, paths: LabPaths, ssh_port: int) -> list[str]:
    # restrict=on: the guest reaches nothing but its forwarded port.
    arguments = [
        *("-netdev", f"user,id=control,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
        *("-device", f"virtio-net-pci,netdev=control,mac={machine.mac('control')},bus=pcie.0,addr={CONTROL_SLOT:#x},romfile="),
    ]
    if machine.peer:
        local, remote = (_quoted(paths.network / f"{name}.sock") for name in (machine.host.name, machine.peer))
        arguments += [
            *("-netdev", f"dgram,id=lab,local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"),
            *("-device", f"virtio-net-pci,netdev=lab,mac={machine.mac('lab')},bus=pcie.0,addr={LAB_SLOT:#x},romfile="),
        ]
    return arguments


def _quoted(path: Path) -> str:
    """A path as part of a QEMU option, where a single comma begins the next one."""
    return str(path).replace(",", ",,")


def _cxl_arguments(machine: Machine, paths: LabPaths) -> list[str]:
    arguments = [
        # A second -machine is merged into libvirt's own.
        *("-machine", f"cxl=on,cxl-fmw.0.targets.0=cxl.0,cxl-fmw.0.size={machine.window}"),
        *("-device", f"pxb-cxl,id=cxl.0,bus=pcie.0,addr={BRIDGE_SLOT:#x},bus_nr={BRIDGE_BUS}"),
    ]
    # A bridge with a single root port has no HDM decoders and could carry one region only; the second port may stay empty.
    for index in range(max(2, len(machine.memories))):
        arguments += ["-device", f"cxl-rp,id=cxl-rp.{index},bus=cxl.0,port={index},chassis={BRIDGE_BUS},slot={index}"]
    for index, memory in enumerate(machine.memories):
        lsa = _quoted(paths.host(machine.host.name) / f"{memory.name}.lsa")
        backend = "memory-backend-file,share=on"
        arguments += [
            *("-object", f"{backend},id=cxl-mem.{memory.name},mem-path={_quoted(paths.memory(memory.name))},size={memory.size}"),
            *("-object", f"{backend},id=cxl-lsa.{memory.name},mem-path={lsa},size={memory.lsa_size}"),
            "-device",
            f"cxl-type3,id=cxl-dev.{memory.name},bus=cxl-rp.{index},persistent-memdev=cxl-mem.{memory.name},"
            f"lsa=cxl-lsa.{memory.name},sn={memory.serial:#x}",
        ]
    return arguments
