# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules about devices of a running lab have in common: their options, and the lab's hosts, files and guests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, Mapping, Sequence

from ansible.module_utils.basic import missing_required_lib

from .cxl_lab.cxl_list import Memdev, find_memdev, list_memdevs
from .cxl_lab.dcd.monitor import Monitor, VirshMonitor
from .cxl_lab.errors import LabError
from .cxl_lab.leaks import Leaks
from .cxl_lab.live_devices import DeviceWant, LiveDevice, describe, observe
from .cxl_lab.live_host import LiveHost
from .cxl_lab.names import check_name
from .cxl_lab.runner import HostRunner
from .cxl_lab.topology.guest import GuestRunner
from .cxl_lab.topology.plan import LabPaths, Seen, domain_name, lab_folder
from .cxl_lab.topology.store import Store, invoking_user

try:
    from .cxl_lab.topology.libvirt_host import LibvirtHost

    MISSING = ""
except ImportError as error:
    MISSING = str(error.name)

#: The options that name a lab.
DEVICE_OPTIONS: dict[str, Any] = {
    "lab": {"type": "str", "required": True},
    "lab_dir": {"type": "path"},
    "uri": {"type": "str", "default": "qemu:///system"},
}


class LiveLab:
    """A lab that runs.

    :param params: of the module; those of `DEVICE_OPTIONS`, and ``wait_timeout`` and ``wait_sleep`` where it waits.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        if MISSING:
            raise LabError("libvirt", missing_required_lib(MISSING), "run scripts/bootstrap")
        self.name = check_name(params["lab"], "lab")
        self.paths = LabPaths(self.name, lab_folder(self.name, params["lab_dir"]))
        self._params = params
        self._runner = HostRunner()
        self._libvirt = LibvirtHost(params["uri"])
        self._seen: dict[str, Seen] = self._libvirt.seen(self.name)

    def check_running(self, host: str) -> str:
        """:raises LabError: for a host that the lab does not have, or that is off."""
        known = ", ".join(sorted(self._seen)) or "none: it is not built"
        if host not in self._seen:
            raise LabError(f"host {host}", f"lab {self.name} has no machine of this name on this hypervisor", f"it has {known}")
        if self._seen[host].state != "running":
            raise LabError(f"host {host}", f"is {self._seen[host].state}", "switch it on (cxl_power)")
        return host

    def check_not_in_topology(self, host: str, names: Iterable[str]) -> None:
        """:raises LabError: for a device that the topology gives the host: the machine would not start without it."""
        self.check_running(host)
        spec = self._seen[host].spec or {}
        fixed = {str(memory.get("name")) for memory in spec.get("memories", [])}
        # The file of a pool has its name, and would be the memory of the device, too.
        every = [memory for seen in self._seen.values() for memory in (seen.spec or {}).get("memories", [])]
        fixed |= {str(memory["pool"]) for memory in every if memory.get("pool")}
        for name in names:
            if name in fixed:
                step = "change cxl_topology_memories and set cxl_topology_recreate=true"
                raise LabError(f"device {name} of {host}", "belongs to the topology and cannot come or go alone", step)

    def monitor(self, host: str) -> Monitor:
        return VirshMonitor(self._runner, self._params["uri"], domain_name(self.name, self.check_running(host)), host)

    def guest(self, host: str) -> GuestRunner:
        return GuestRunner(self._runner, self.paths.ssh_config, host)

    def host(self, host: str) -> LiveHost:
        return LiveHost(
            host,
            self.monitor(host),
            self.guest(host),
            Leaks(self.paths.host(host)),
            elsewhere=self._leaked_elsewhere(host),
            timeout=self._params["wait_timeout"],
            sleep=self._params["wait_sleep"],
        )

    def memdev(self, host: str, device: LiveDevice | None, subject: str) -> Memdev:
        """What a device is on its host.

        :raises LabError: when QEMU or the host do not have it.
        """
        if device is None:
            raise LabError(subject, "QEMU has no device of this name", "compare it with the topology, or attach it (cxl_device)")
        found = find_memdev(list_memdevs(self.guest(host)), device.serial)
        if found is None:
            raise LabError(subject, f"{host} has no memdev of its serial number", f"look at dmesg of {host}")
        return found

    def lock(self, host: str) -> Path:
        """Held by whoever changes the devices of a host."""
        return self.paths.host(host) / ".devices.lock"

    def files(self, want: DeviceWant) -> dict[str, Path]:
        """The file of each kind of capacity of a device, and that of its labels."""
        return {
            "persistent": self.paths.memory(want.name),
            "volatile": self.paths.memory(f"{want.name}.volatile"),
            "labels": self.paths.host(want.host) / f"{want.name}.lsa",
        }

    def make_files(self, want: DeviceWant, files: Mapping[str, Path]) -> None:
        """Makes those that are missing."""
        store = Store(self.paths, self._runner, self._libvirt.emulator_user(), invoking_user())
        for kind, size in want.parts.items():
            store.sparse(files[kind], size, want.subject)
        if want.size:
            store.sparse(files["labels"], want.lsa_size, want.subject)

    def _leaked_elsewhere(self, host: str) -> dict[str, str]:
        """Devices that leaked on the other hosts that run: their memory may still be written there."""
        found: dict[str, str] = {}
        for other, seen in self._seen.items():
            leaks = Leaks(self.paths.host(other))
            if other != host and seen.state == "running" and leaks.there():
                found.update({leak.name: other for leak in leaks.load(observe(self.monitor(other)).objects)})
        return found


def shown_devices(host: LiveHost, names: Sequence[str]) -> list[dict[str, Any]]:
    """Those devices of a host that are there, as modules return them."""
    live, memdevs = host.observe(), host.memdevs()
    found = [describe(live, name) for name in names]
    return [{**device, "memdev": memdevs.get(device["serial"], "")} for device in found if device]
