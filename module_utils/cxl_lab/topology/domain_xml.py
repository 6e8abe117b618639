# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine as a libvirt domain. libvirt has no elements for CXL, so the fabric and the networks are raw QEMU arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Sequence
from xml.etree import ElementTree as ET

from .plan import LabPaths, Machine, network_credential
from .qemu_args import qemu_arguments

LAB_NAMESPACE = "https://cxl.lab/libvirt/1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
#: Quick and quiet: the console is a log file, and no guest defends itself against its own processes.
KERNEL_OPTIONS = "root=/dev/vda rw console=ttyS0 loglevel=4 systemd.show_status=0 mitigations=off audit=0 random.trust_cpu=on"
#: Emulated processors show one clock, the hypervisor's, and lack the flag that says so: the kernel would ask the HPET each time.
EMULATED = "tsc=reliable"
#: The kernel keeps the registers of a host bridge from programs otherwise, for its own CXL driver.
RELAXED = "iomem=relaxed"

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


def hostname(name: str) -> str:
    """How a guest calls itself: systemd ignores a host name with an underscore, or a hyphen at the end."""
    return name.replace("_", "-").rstrip("-")


def _text(parent: ET.Element, tag: str, text: str | None, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _firmware(domain: ET.Element, machine: Machine, folder: Path) -> None:
    boot = ET.SubElement(domain, "os")
    _text(boot, "type", "hvm", arch="x86_64", machine="q35")
    _text(boot, "kernel", machine.platform.kernel)
    _text(boot, "initrd", machine.platform.initrd)
    own = [EMULATED] if machine.platform.accel == "tcg" else []
    own += [RELAXED] if machine.fabric.programmed else []
    words = [KERNEL_OPTIONS, f"systemd.hostname={hostname(machine.host.name)}", *own, *machine.host.kernel_options]
    _text(boot, "cmdline", " ".join(words))
    # Credentials by file: a key on a command line could be read by every user of the hypervisor.
    system = ET.SubElement(domain, "sysinfo", type="fwcfg")
    for credential in credential_names(machine):
        ET.SubElement(
            system, "entry", name=f"opt/io.systemd.credentials/{credential}", file=str(folder / "credentials" / credential)
        )


def credential_names(machine: Machine) -> list[str]:
    """What a guest learns about itself when it boots; see systemd.system-credentials(7)."""
    networks = [network_credential(index) for index in range(len(machine.nics))]
    return ["ssh.authorized_keys.root", "cxl-lab.ssh-host-key", *networks, "tmpfiles.extra"]


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
