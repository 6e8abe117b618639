# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt cannot say of a machine: the networks and the CXL fabric, as raw QEMU arguments.

libvirt does not know the addresses that these take on the root bus; each is given explicitly, far above those that libvirt
assigns by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterable

from .fabric import Fabric
from .plan import LabPaths, Machine, Nic
from .records import Memory, Window

#: Slots on the root bus. The guest's network files match the control NIC by the name that follows from its slot (enp0s16).
CONTROL_SLOT, LAB_SLOT, BRIDGE_SLOT = 0x10, 0x11, 0x16
_BACKEND = "memory-backend-file,share=on"
#: The property of a type-3 device that takes each kind of capacity.
_PROPERTIES = {"persistent": "persistent-memdev", "volatile": "volatile-memdev", "dynamic": "volatile-dc-memdev"}


def qemu_arguments(machine: Machine, paths: LabPaths, ssh_port: int) -> list[str]:
    """The arguments of one machine; those of the user come last."""
    # A number that is new whenever QEMU starts, and stays over resets: see committed.py, which reads it in the guest.
    arguments = [*_control_arguments(machine, ssh_port), "-device", "vmgenid,guid=auto"]
    for index, nic in enumerate(machine.nics):
        arguments += _nic_arguments(machine, nic, paths, LAB_SLOT + index)
    if machine.fabric.bridges:
        arguments += _fabric_arguments(machine.fabric)
    places = {device.name: device for device in machine.fabric.devices}
    for memory in machine.memories:
        place = places[memory.name]
        arguments += _device_arguments(memory, port_id(machine.fabric, place.parent, place.number), machine.host.name, paths)
    arguments += ["-gdb", f"tcp:127.0.0.1:{machine.host.gdb_port}"] if machine.host.gdb_port else []
    return [*arguments, *machine.host.qemu_arguments]


def bridge_id(name: str) -> str:
    return f"cxl-hb.{name}"


def port_id(fabric: Fabric, parent: str, number: int) -> str:
    """The QEMU id of a root port or downstream port, which is the name of the bus behind it, too."""
    of_switch = any(switch.name == parent for switch in fabric.switches)
    return f"cxl-{'ds' if of_switch else 'rp'}.{parent}.{number}"


def _control_arguments(machine: Machine, ssh_port: int) -> list[str]:
    # restrict=on: the guest reaches nothing but its forwarded port.
    return [
        *("-netdev", f"user,id=control,restrict=on,hostfwd=tcp:127.0.0.1:{ssh_port}-:22"),
        *("-device", f"virtio-net-pci,netdev=control,mac={machine.mac('control')},bus=pcie.0,addr={CONTROL_SLOT:#x},romfile="),
    ]


def _nic_arguments(machine: Machine, nic: Nic, paths: LabPaths, slot: int) -> list[str]:
    identity = f"net.{nic.network}" if nic.network != "lab" else "lab"
    if nic.kind == "switch":
        backend = f"vde,id={identity},sock={_quoted(paths.switch(nic.network))}"
    else:
        local, remote = (_quoted(paths.cable(nic.network, name)) for name in (machine.host.name, nic.peer))
        backend = f"dgram,id={identity},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"
    device = f"virtio-net-pci,netdev={identity},mac={machine.mac(nic.network)},bus=pcie.0,addr={slot:#x},romfile="
    return ["-netdev", backend, "-device", device]


def _quoted(path: Path) -> str:
    """A path as part of a QEMU option, where a single comma begins the next one."""
    return str(path).replace(",", ",,")


def _fabric_arguments(fabric: Fabric) -> list[str]:
    # A second -machine is merged into libvirt's own.
    windows = ",".join(part for index, window in enumerate(fabric.windows) for part in _window_options(index, window))
    arguments = ["-machine", f"cxl=on,{windows}"]
    for index, bridge in enumerate(fabric.bridges):
        hdm = ",hdm_for_passthrough=on" if bridge.hdm_for_passthrough else ""
        place = f"bus=pcie.0,addr={BRIDGE_SLOT + index:#x},bus_nr={bridge.bus}"
        arguments += ["-device", f"pxb-cxl,id={bridge_id(bridge.name)},{place}{hdm}"]
    upstream = {switch.name: switch for switch in fabric.switches}
    for port in fabric.ports:
        if port.number == 0 and port.of_switch:
            plug = upstream[port.parent]
            arguments += ["-device", f"cxl-upstream,id=cxl-us.{plug.name},bus={port_id(fabric, plug.parent, plug.number)}"]
        kind, bus = ("cxl-downstream", f"cxl-us.{port.parent}") if port.of_switch else ("cxl-rp", bridge_id(port.parent))
        numbers = f"port={port.number},chassis={port.chassis},slot={port.number}"
        arguments += ["-device", f"{kind},id={port_id(fabric, port.parent, port.number)},bus={bus},{numbers}"]
    return arguments


def _window_options(index: int, window: Window) -> Iterable[str]:
    for place, target in enumerate(window.targets):
        yield f"cxl-fmw.{index}.targets.{place}={bridge_id(target)}"
    yield f"cxl-fmw.{index}.size={window.size}"
    if len(window.targets) > 1:
        yield f"cxl-fmw.{index}.interleave-granularity={window.granularity}"


def _device_arguments(memory: Memory, port: str, host: str, paths: LabPaths) -> list[str]:
    arguments, options = [], []
    for kind, size in memory.parts.items():
        backend = f"cxl-mem.{memory.name}" if kind == "persistent" else f"cxl-{kind}.{memory.name}"
        offset = f",offset={memory.offset}" if memory.offset else ""
        file = paths.backing(memory, kind)
        arguments += ["-object", f"{_BACKEND},id={backend},mem-path={_quoted(file)},size={size}{offset}"]
        options.append(f"{_PROPERTIES[kind]}={backend}")
    if memory.lsa_size:
        lsa = _quoted(paths.host(host) / f"{memory.name}.lsa")
        arguments += ["-object", f"{_BACKEND},id=cxl-lsa.{memory.name},mem-path={lsa},size={memory.lsa_size}"]
        options.append(f"lsa=cxl-lsa.{memory.name}")
    if memory.dc_regions:
        options.append(f"num-dc-regions={memory.dc_regions}")
    return [*arguments, "-device", f"cxl-type3,id=cxl-dev.{memory.name},bus={port},{','.join(options)},sn={memory.serial:#x}"]
