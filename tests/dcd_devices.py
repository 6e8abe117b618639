# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic-capacity devices for the tests: a pretended one with a host that answers, and a real QEMU whose CPUs never start."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.cxl_lab.dcd.device import BLOCK
from ansible.module_utils.cxl_lab.dcd.monitor import QmpError, returned

EMULATORS = sorted(Path("/var/cache/cxl-lab").glob("qemu-*/bin/qemu-system-x86_64"))
MIB = 1 << 20
DEVICE = "/machine/peripheral/cxl-dev.pool0"


class FakeDevice:
    """A DC device as QEMU judges requests, block by block, and a host that answers at once, late, in part, or refuses.

    ``answer`` gets the offered blocks and returns those that the host takes, or None while it has not answered. ``gives_back``
    says whether it obeys a release.
    """

    def __init__(self, path: str = "/dev/shm/pool0", region_size: int = 256 * MIB, regions: int = 2) -> None:
        self.properties = {
            (DEVICE, "num-dc-regions"): regions,
            (DEVICE, "volatile-dc-memdev"): "/objects/cxl-mem.pool0",
            (DEVICE, "sn"): 0x91,
            ("/objects/cxl-mem.pool0", "size"): region_size * regions,
            ("/objects/cxl-mem.pool0", "mem-path"): path,
            ("/objects/cxl-mem.pool0", "offset"): 0,
        }
        self.regions, self.region_size = regions, region_size
        self.accepted: set[tuple[int, int]] = set()
        self.pending: list[set[tuple[int, int]]] = []
        self.answer = lambda blocks: blocks
        self.gives_back = True
        self.commands: list[tuple[str, dict[str, Any]]] = []
        self.die_before: str = ""

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        if command == "qom-get":
            key = arguments["path"], arguments["property"]
            if key not in self.properties:
                raise self._refuse(command, f"Device '{arguments['path']}' not found")
            return self.properties[key]
        return self._request(command, arguments)

    def _request(self, command: str, arguments: Mapping[str, Any]) -> Any:
        region, seen = arguments["region"], set()
        if region >= self.regions:
            raise self._refuse(command, "region id is too large")
        for extent in arguments["extents"]:
            offset, size = extent["offset"], extent["len"]
            if size == 0:
                raise self._refuse(command, "extent with 0 length is not allowed")
            if offset % BLOCK or size % BLOCK:
                raise self._refuse(command, "dpa or len is not aligned to region block size")
            if offset + size > self.region_size:
                raise self._refuse(command, "extent range is beyond the region end")
            blocks = {(region, at) for at in range(offset, offset + size, BLOCK)}
            self._judge(command, blocks)
            if blocks & seen:
                raise self._refuse(command, "duplicate or overlapped extents are detected")
            seen |= blocks
        if command == self.die_before:
            raise KeyboardInterrupt
        self.commands.append((command, dict(arguments)))
        if not seen:
            return {}
        if command.startswith("cxl-add"):
            self.pending.append(seen)
            self.host_looks()
        elif self.gives_back:
            self.accepted -= seen
        return {}

    def host_looks(self) -> None:
        while self.pending and (taken := self.answer(self.pending[0])) is not None:
            self.pending.pop(0)
            self.accepted |= taken

    def restart(self) -> None:
        self.accepted, self.pending = set(), []

    def _judge(self, command: str, blocks: set[tuple[int, int]]) -> None:
        pending = any(blocks & offered for offered in self.pending)
        if command.startswith("cxl-add"):
            if blocks & self.accepted:
                raise self._refuse(command, "cannot add DPA already accessible to the same LD")
            if pending:
                raise self._refuse(command, "cannot add DPA again while still pending")
        elif pending:
            raise self._refuse(command, "cannot release extent with pending DPA range")
        elif not blocks <= self.accepted:
            raise self._refuse(command, "cannot release extent with non-existing DPA range")

    @staticmethod
    def _refuse(command: str, said: str) -> QmpError:
        return QmpError("host node1", said, command)


class StoppedQemu:
    """QMP of a real QEMU, over its standard input and output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.execute("qmp_capabilities", {})

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"execute": command, "arguments": dict(arguments)}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            answer = json.loads(line)
            if "return" in answer or "error" in answer:
                return returned(line, "host node1", command)
        raise AssertionError("QEMU ended")


@contextlib.contextmanager
def stopped_qemu(memory: Path, size: int = 512 * MIB, regions: int = 2, extra: tuple[str, ...] = ()) -> Iterator[StoppedQemu]:
    """A machine with one DC device ``cxl-dev.pool0`` over this file; its guest never runs, so that offers stay pending.

    :param extra: more arguments of QEMU.
    """
    backend = f"memory-backend-file,id=cxl-mem.pool0,share=on,mem-path={memory},size={size}"
    device = f"cxl-type3,bus=rp0,volatile-dc-memdev=cxl-mem.pool0,num-dc-regions={regions},id=cxl-dev.pool0,sn=0x91"
    command = ["nice", "-n", "19", str(EMULATORS[0]), "-machine", "q35,cxl=on", "-S", "-nodefaults", "-display", "none"]
    command += ["-m", "128M", "-qmp", "stdio", "-device", "pxb-cxl,bus_nr=64,bus=pcie.0,id=cxl.0,addr=0x18"]
    command += ["-device", "cxl-rp,port=0,bus=cxl.0,id=rp0,chassis=64,slot=0", "-object", backend, "-device", device]
    command += ["-M", "cxl-fmw.0.targets.0=cxl.0,cxl-fmw.0.size=4G", *(extra or ("-accel", "tcg"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield StoppedQemu(process)
        finally:
            process.kill()
