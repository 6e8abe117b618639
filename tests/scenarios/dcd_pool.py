# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab of inventories/dcd_pool: its fabric manager on this machine, and programs on its hosts that map extents."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from scenario import ROOT, VmLab, run, wait_until

SERIAL = 0xC0DE0001
PROGRAM = "/opt/cxl-datapath/current/bin/cxl-datapath"
PYTHON = "/opt/cxl-datapath/current/bin/python3"
DEVICE = "/machine/peripheral/cxl-dev.pool0"
MIB = 1 << 20
BLOCK = 2 * MIB
REGION = 512 * MIB  # where region 1 begins

Range = tuple[int, int]  # first byte, length


class Pool(VmLab):
    """Addresses are those of the device, except where QEMU wants offsets in a region."""

    @property
    def state_file(self) -> Path:
        return Path(f"/dev/shm/cxl-lab.{self.name}.pool0.mhsld")

    # ---- what a host has

    def extents(self, host: str) -> dict[int, int]:
        """What the host's own device says that it holds."""
        return {row["dpa"]: row["size"] for row in self.daemon(host, "extents")}

    def holds(self, host: str, *wanted: Range) -> bool:
        have = self.extents(host)
        return all(any(at <= first and first + size <= at + have[at] for at in have) for first, size in wanted)

    def events(self, host: str) -> list[str]:
        return [row["what"] for row in self.daemon(host, "events")]

    def daemon(self, host: str, *verb: str) -> Any:
        return json.loads(self.on(host, "cxl-datapath", "dcd", *verb, "--json"))

    def await_daemon(self, host: str) -> None:
        """Until the host's daemon has its region again."""

        def has_region() -> bool:
            return '"running"' in self.answer(host, "cxl-datapath", "dcd", "regions", "--json")

        wait_until(has_region, f"the region of {host} is back", patience_s=600)

    # ---- the fabric manager

    def fabric(self, *extents: dict[str, object], fails: str = "", **options: object) -> str:
        """Runs dcd_extent on this machine."""
        rows = [{"device": "pool0", **extent} for extent in extents]
        return self.module("dcd_extent", fails, state_files={"pool0": str(self.state_file)}, extents=rows, **options)

    def heads(self, module: str, **options: object) -> str:
        """Runs mhsld_state or mhsld_info over all hosts of the lab."""
        return self.module(
            module, device="pool0", path=str(self.state_file), hosts=["node1", "node2", "node3", "node4"], **options
        )

    def module(self, name: str, fails: str = "", **arguments: object) -> str:
        code, output = run(
            ["ansible", *self.options(), "-b", "-m", name, "-a", json.dumps({"lab": self.name, **arguments}), "hypervisor"]
        )
        assert (code != 0) == bool(fails), output
        assert fails in " ".join(output.split()), output
        return output

    def qmp(self, host: str, command: str, **arguments: object) -> str:
        """What QEMU says to a command: nothing but its complaint, or "" when it takes it."""
        line = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(self.virsh("-q", "qemu-monitor-command", self.domain(host), line))
        return str(answer.get("error", {}).get("desc", ""))

    def offer(self, host: str, *extents: Range, region: int = 0, tag: str = "") -> str:
        """Past the modules: one request, as it is; offsets in the region."""
        policy = {"selection-policy": "prescriptive", **tagged(tag)}
        return self._request(host, "cxl-add-dynamic-capacity", policy, region, extents)

    def ask_back(self, host: str, *extents: Range, region: int = 0, force: bool = False, tag: str = "") -> str:
        policy = {"removal-policy": "prescriptive", "forced-removal": force, **tagged(tag)}
        return self._request(host, "cxl-release-dynamic-capacity", policy, region, extents)

    def _request(self, host: str, command: str, policy: dict[str, object], region: int, extents: tuple[Range, ...]) -> str:
        rows = [{"offset": offset, "len": size} for offset, size in extents]
        return self.qmp(host, command, **{"path": DEVICE, "host-id": 0, "region": region, "extents": rows, **policy})

    # ---- programs on the hosts

    def poke(self, host: str, name: str, dpa: int, text: str) -> None:
        """Writes through a mapping of 2 MiB; it stays."""
        self.program(host, *mapped(name, dpa), f"view[:{len(text)}] = {text.encode()!r}")

    def peek(self, host: str, name: str, dpa: int, count: int) -> bytes:
        found = self.program(host, *mapped(name, dpa), f"print(view[:{count}].hex())")
        return bytes.fromhex(found.strip().splitlines()[-1])

    def look(self, host: str, dpa: int, count: int) -> bytes:
        """Past the daemon: what the window shows at a device address, accepted or not."""
        base = self.daemon(host, "regions")[0]["base"]
        found = self.program(
            host,
            "import mmap, os",
            "fd = os.open('/dev/mem', os.O_RDWR)",
            f"view = mmap.mmap(fd, 4096, offset={base + dpa})",
            f"print(view[:{count}].hex())",
        )
        return bytes.fromhex(found.strip().splitlines()[-1])

    def unmap(self, host: str, *names: str) -> None:
        for name in names:
            self.daemon(host, "unmap", hex(SERIAL), name)

    def program(self, host: str, *lines: str) -> str:
        return self.on(host, self._python(lines))

    def program_in_background(self, host: str, *lines: str) -> subprocess.Popen[str]:
        return self.background(host, self._python(lines))

    @staticmethod
    def _python(lines: tuple[str, ...]) -> str:
        text = base64.b64encode("\n".join(lines).encode()).decode()  # a remote shell takes it apart otherwise
        return f"echo {text} | base64 -d | {PYTHON} -"


def tagged(tag: str) -> dict[str, str]:
    return {"tag": tag} if tag else {}


def mapped(name: str, dpa: int, size: int = BLOCK) -> tuple[str, ...]:
    """A program's beginning: `view` is the range, mapped by the file that the daemon hands out."""
    return (
        "import mmap, os",
        "from pathlib import Path",
        "from cxl_datapath.client import Client",
        "client = Client(Path('/run/cxl-datapath'))",
        f"client.call('dcd.mapping.create', serial={SERIAL}, name={name!r}, dpa={dpa}, size={size})",
        f"row, fd = client.open('dcd.mapping.open', serial={SERIAL}, name={name!r})",
        "view = mmap.mmap(fd, row['size'], offset=row['offset'])",
    )


def manager_that_dies(lab: Pool, host: str, tag: str) -> list[str]:
    """A fabric manager that ends by SIGKILL where its first real offer would go to QEMU: after journal and claim."""
    lines = [
        "import os, signal, sys",
        f"sys.path.insert(0, {str(ROOT / 'module_utils')!r})",
        "from pathlib import Path",
        "from cxl_lab.dcd import extents, journal, manager, monitor",
        "from cxl_lab.dcd.claims import Claims",
        "from cxl_lab.runner import HostRunner",
        "class Dies(monitor.VirshMonitor):",
        "    def execute(self, command, arguments):",
        "        if command == 'cxl-add-dynamic-capacity' and all(each['len'] for each in arguments['extents']):",
        "            os.kill(os.getpid(), signal.SIGKILL)",
        "        return super().execute(command, arguments)",
        f"domain = {lab.domain(host)!r}",
        f"book = journal.Journal(Path('/var/lib/cxl-lab-dcd') / {lab.name!r})",
        "qemu = lambda host: Dies(HostRunner(), 'qemu:///system', domain, host)",
        f"fabric = manager.Manager(book, qemu, {{'pool0': Claims(HostRunner(), {str(lab.state_file)!r})}}, HostRunner())",
        f"row = {{'host': {host!r}, 'device': 'pool0', 'tag': {tag!r}, 'size': '32M', 'offset': '384M'}}",
        "want = extents.parse_wants([row])[0]",
        "fabric.carry_out(fabric.plan(want), timeout=5, sleep=0.1)",
    ]
    return as_root(sys.executable, "-c", "\n".join(lines))


def race(lab: Pool, rounds: int) -> list[str]:
    """Two processes claim one range for two heads, again and again; prints who won how often. The loser's error names who won."""
    lines = [
        "import multiprocessing as mp",
        "from pathlib import Path",
        "from cxl_datapath.errors import DatapathError",
        "from cxl_datapath.mhsld.state import StateFile",
        "def run(name, gate, says):",
        f"    with StateFile(Path({str(lab.state_file)!r})) as file:",
        "        head = file.head(name)",
        f"        for _ in range({rounds}):",
        "            gate.wait()",
        "            try:",
        "                file.claim(head, [(128, 32)])",
        "                said = ''",
        "            except DatapathError as error:",
        "                said = str(error)",
        "            says.send(said)",
        "            gate.wait()",
        "            if not said:",
        "                file.release(head, [(128, 32)])",
        "            gate.wait()",
        "names, gate = ('node1', 'node2'), mp.Barrier(2)",
        "ends = [mp.Pipe(False) for _ in names]",
        "racers = [mp.Process(target=run, args=(name, gate, end[1])) for name, end in zip(names, ends)]",
        "[racer.start() for racer in racers]",
        "wins = {name: 0 for name in names}",
        f"for _ in range({rounds}):",
        "    said = [end[0].recv() for end in ends]",
        "    assert said.count('') == 1, said",
        "    winner = names[said.index('')]",
        "    assert f'belongs to {winner}' in max(said), said",
        "    wins[winner] += 1",
        "[racer.join() for racer in racers]",
        "print(wins)",
    ]
    return as_root(PYTHON, "-c", "\n".join(lines))


def as_root(*command: str) -> list[str]:
    return [*(["sudo", "-n"] if os.geteuid() else []), *command]
