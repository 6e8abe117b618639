# SPDX-License-Identifier: GPL-3.0-or-later
"""A pretended QEMU whose devices come and go, with a guest that lets go of them, or does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.cxl_lab.dcd.monitor import QmpError
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner

PERIPHERAL = "/machine/peripheral"


class LiveQemu:
    """The object model as `hotplug.observe` asks for it.

    :param lets_go: whether the guest answers a device_del.
    :param keeps: whether QEMU keeps the memory of a device that is gone, as 11.1 does.
    """

    def __init__(self, ports: tuple[str, ...] = ("cxl-rp.b.0", "cxl-rp.b.1", "cxl-rp.b.2")) -> None:
        self.ports = ports
        self.devices: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, dict[str, Any]] = {"pc.ram": {}}
        self.mapped: set[str] = set()
        self.lets_go = True
        self.keeps = False
        self.refuses = ""
        self.goes = ""  # a device that goes when it is looked at
        self.commands: list[str] = []

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        if command == self.refuses:
            raise QmpError("host node1", "no", command)
        if command not in ("qom-list", "qom-get"):
            self.commands.append(f"{command} {arguments['id']}")
        return getattr(self, command.replace("-", "_"))(dict(arguments))

    def qom_list(self, arguments: dict[str, Any]) -> list[dict[str, str]]:
        if arguments["path"] == "/objects":
            return [{"name": name, "type": "child<memory-backend-file>"} for name in self.objects]
        kinds = {**dict.fromkeys(self.ports, "cxl-rp"), **dict.fromkeys(self.devices, "cxl-type3")}
        return [{"name": "type", "type": "string"}, *({"name": name, "type": f"child<{kind}>"} for name, kind in kinds.items())]

    def qom_get(self, arguments: dict[str, Any]) -> Any:
        folder, _, name = arguments["path"].rpartition("/")
        if folder == "/objects":
            return self.objects[name][arguments["property"]]
        if name == self.goes:
            self.goes = self.devices.pop(name)["id"]
        if name not in self.devices:
            raise QmpError("host node1", f"Device '{arguments['path']}' not found", "qom-get")
        device, key = self.devices[name], arguments["property"]
        if key == "parent_bus":
            return f"{PERIPHERAL}/{device['bus']}/{device['bus']}"
        if key == "sn":
            return device["sn"]
        return f"/objects/{device[key]}" if key in device else ""

    def object_add(self, arguments: dict[str, Any]) -> dict[str, Any]:
        assert arguments["id"] not in self.objects, "attempt to add duplicate property"
        self.objects[arguments["id"]] = arguments
        return {}

    def object_del(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if arguments["id"] in self.mapped:
            raise QmpError("host node1", f"Cannot delete host memory backend '{arguments['id']}' which is mapped", "object-del")
        del self.objects[arguments["id"]]
        return {}

    def device_add(self, arguments: dict[str, Any]) -> dict[str, Any]:
        memory = {arguments[key] for key in ("persistent-memdev", "volatile-memdev") if key in arguments}
        assert not memory & self.mapped, "memory backend can't be used multiple times"
        self.mapped |= memory
        self.devices[arguments["id"]] = arguments
        return {}

    def device_del(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.lets_go:
            device = self.devices.pop(arguments["id"])
            if not self.keeps:
                self.mapped -= {value for value in device.values() if isinstance(value, str)}
        return {}


class Guest(FakeRunner):
    """A host that has the memdevs of a `LiveQemu`, with one pmem region over those whose serial numbers are in ``regions``."""

    def __init__(self, qemu: LiveQemu) -> None:
        self.qemu = qemu
        self.regions: set[int] = set()
        self.users: dict[str, list[str]] = {}
        self.away = False
        super().__init__(
            {
                "cxl list -M -i": self.memdevs,
                "cxl list -R -T -i": lambda: json.dumps([self.region(serial) for serial in sorted(self.regions)]),
                "ndctl list": lambda: json.dumps([self.bus()]),
                "python3 -": lambda: json.dumps(self.users),
                "ndctl disable-namespace": "",
                "cxl disable-region": "",
                "cxl destroy-region": self.destroy,
                "rm -f": "",
                "setpci -s": "",
            }
        )

    def memdevs(self) -> str | Result:
        if self.away:
            return Result(1, "", "no route to host")
        rows = [
            {"memdev": name, "pmem_size": 1, "serial": serial, "host": "0000:0d:00.0"} for serial, name in self.names().items()
        ]
        return json.dumps(rows)

    def names(self) -> dict[int, str]:
        return {device["sn"]: f"mem{number}" for number, device in enumerate(self.qemu.devices.values())}

    def region(self, serial: int) -> dict[str, Any]:
        mapping = {"position": 0, "memdev": self.names()[serial], "decoder": "decoder2.0"}
        row = {"region": f"region{serial % 16}", "type": "pmem", "size": 1, "decode_state": "commit"}
        return {**row, "mappings": [mapping]}

    def bus(self) -> dict[str, Any]:
        dimms = [{"dev": f"nmem{serial % 16}", "id": str(serial)} for serial in self.regions]
        regions = [
            {
                "dev": f"region{serial % 16}",
                "mappings": [{"dimm": f"nmem{serial % 16}"}],
                "namespaces": [{"dev": "namespace0.0", "mode": "fsdax", "blockdev": "pmem0"}],
            }
            for serial in self.regions
        ]
        return {"dev": "ndbus0", "dimms": dimms, "regions": regions}

    def destroy(self) -> str:
        self.regions.clear()
        return ""
