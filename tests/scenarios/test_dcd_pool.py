# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic capacity on four real virtual machines that share one device: inventories/dcd_pool.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator

import pytest
from scenario import ROOT, VmLab, changed, run, wait_until

SERIAL = "0xc0de0001"
STATE_FILE = "/dev/shm/cxl-lab.dcd_scenario.pool0.mhsld"
PROGRAM = "/opt/cxl-datapath/current/bin/cxl-datapath"
HOSTS = ("node1", "node2", "node3", "node4")
MIB = 1 << 20
REGION = 512 * MIB


class Pool(VmLab):
    """The lab of inventories/dcd_pool under another name."""

    def options(self) -> list[str]:
        return ["-i", str(ROOT / "inventories/dcd_pool"), "-e", f"cxl_topology_lab={self.name}"]

    def extents(self, host: str) -> dict[int, int]:
        """What the host itself says that it holds."""
        return {row["dpa"]: row["size"] for row in json.loads(self.on(host, "cxl-datapath", "dcd", "extents", "--json"))}

    def fabric(self, *extents: dict[str, object], fails: str = "") -> str:
        """Runs dcd_extent on the hypervisor."""
        rows = json.dumps([{"device": "pool0", **extent} for extent in extents])
        arguments = json.dumps({"lab": self.name, "state_files": {"pool0": STATE_FILE}, "extents": json.loads(rows)})
        code, output = run(["ansible", *self.options(), "-b", "-m", "dcd_extent", "-a", arguments, "hypervisor"])
        if fails:
            assert code != 0 and fails in " ".join(output.split()), output
        else:
            assert code == 0
        return output

    def poke(self, host: str, name: str, dpa: int, text: str) -> None:
        self._map(host, name, dpa, f"view[:{len(text)}] = {text.encode()!r}")

    def peek(self, host: str, name: str, dpa: int, count: int) -> bytes:
        found = self._map(host, name, dpa, f"print(view[:{count}].hex())")
        return bytes.fromhex(found.strip().splitlines()[-1])

    def _map(self, host: str, name: str, dpa: int, act: str) -> str:
        """A program on the host that maps 2 MiB of an extent by the file that the daemon hands to it."""
        lines = [
            "import mmap, os",
            "from pathlib import Path",
            "from cxl_datapath.client import Client",
            "client = Client(Path('/run/cxl-datapath'))",
            f"client.call('dcd.mapping.create', serial={SERIAL}, name={name!r}, dpa={dpa}, size={2 * MIB})",
            f"row, fd = client.open('dcd.mapping.open', serial={SERIAL}, name={name!r})",
            "view = mmap.mmap(fd, row['size'], offset=row['offset'])",
            act,
        ]
        program = base64.b64encode("\n".join(lines).encode()).decode()  # a remote shell takes it apart otherwise
        return self.on(host, f"echo {program} | base64 -d | /opt/cxl-datapath/current/bin/python3 -")


LAB = Pool("dcd_scenario")


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def test_built_twice() -> None:
    for phase in ("create", "datapath", "dcd"):
        assert LAB.playbook(f"playbooks/{phase}.yml")[0] == 0
    code, output = LAB.playbook("playbooks/dcd.yml")
    assert (code, changed(output)) == (0, 0)
    assert LAB.extents("node1") == {0: 128 * MIB, REGION: 64 * MIB}
    assert LAB.extents("node2") == {128 * MIB: 128 * MIB, REGION: 64 * MIB}
    assert LAB.extents("node3") == {}


def test_a_shared_extent_is_one_memory() -> None:
    LAB.poke("node1", "writer", REGION, "written by node1")
    assert LAB.peek("node2", "reader", REGION, 16) == b"written by node1"


def test_a_head_gets_nothing_that_another_one_has() -> None:
    LAB.fabric({"host": "node3", "tag": "wrong", "size": "2M", "offset": "0"}, fails="belongs to node1")
    assert LAB.extents("node3") == {}


def test_a_release_under_a_user_is_ignored() -> None:
    LAB.poke("node2", "holder", 128 * MIB, "still here")
    LAB.fabric({"host": "node2", "tag": "own", "state": "absent"}, fails="the host uses it")
    assert LAB.peek("node2", "holder", 128 * MIB, 10) == b"still here"
    LAB.on("node2", "cxl-datapath", "dcd", "unmap", SERIAL, "holder")
    LAB.fabric({"host": "node2", "tag": "own", "state": "absent", "sanitize": True})
    assert 128 * MIB not in LAB.extents("node2")
    LAB.fabric({"host": "node3", "tag": "own", "size": "128M", "offset": "128M"})
    assert LAB.peek("node3", "next", 128 * MIB, 10) == bytes(10), "the data was scrubbed"


def test_move_with_what_is_in_it() -> None:
    LAB.poke("node1", "before", 0, "kept")
    LAB.on("node1", "cxl-datapath", "dcd", "unmap", SERIAL, "before")
    move = ["-e", "dcd_move_tag=own", "-e", "dcd_move_from=node1", "-e", "dcd_move_to=node4", "-e", "dcd_move_keep=true"]
    assert LAB.playbook("playbooks/dcd_move.yml", *move)[0] == 0
    assert LAB.peek("node4", "after", 0, 4) == b"kept" and 0 not in LAB.extents("node1")


def test_a_restart_of_the_daemon_keeps_what_is_held() -> None:
    held = LAB.extents("node4")
    LAB.on("node4", "systemctl", "kill", "-s", "KILL", "cxl-datapathd")
    wait_until(lambda: LAB.answer("node4", "cxl-datapath", "dcd", "regions", "--json").count('"running"'), "the daemon is back")
    assert LAB.extents("node4") == held
    assert LAB.peek("node4", "after", 0, 4) == b"kept"


def test_a_machine_that_was_reset_and_the_audit() -> None:
    LAB.virsh("destroy", LAB.domain("node4"))
    LAB.virsh("start", LAB.domain("node4"))
    wait_until(lambda: LAB.boot_id("node4"), "node4 is back")
    arguments = {"lab": LAB.name, "device": "pool0", "path": STATE_FILE, "hosts": list(HOSTS)}
    info = ["ansible", *LAB.options(), "-b", "-m", "mhsld_info", "-a", json.dumps(arguments), "hypervisor"]
    code, output = run(info)
    assert code == 0 and re.search(r"kind.*stale", output)
    state = ["ansible", *LAB.options(), "-b", "-m", "mhsld_state", "-a", json.dumps({**arguments, "repair": True}), "hypervisor"]
    assert run(state)[0] == 0
    code, output = run(info)
    assert code == 0 and "stale" not in output


def test_two_heads_race_for_one_range() -> None:
    """Claims by the program as it is installed: exactly one of two wins. A thousand times is a test of the data path."""
    race = f"""
import json, subprocess
wins = 0
for _ in range(20):
    racers = [subprocess.Popen([{PROGRAM!r}, 'mhsld', 'claim', '--json', {STATE_FILE!r}, head, '256M:64M'],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for head in ('node1', 'node2')]
    said = [(racer.communicate(), racer.returncode) for racer in racers]
    assert sorted(code for _, code in said) == [0, 1], said
    winner = ('node1', 'node2')[[code for _, code in said].index(0)]
    loser = next(err for (_, err), code in said if code)
    assert f'belongs to {{winner}}' in loser, loser
    subprocess.run([{PROGRAM!r}, 'mhsld', 'release', {STATE_FILE!r}, winner, '256M:64M'], check=True, stdout=subprocess.DEVNULL)
    wins += 1
print(wins)
"""
    code, output = run(["sudo", "-n", "python3", "-c", race])
    assert code == 0 and output.strip().endswith("20")
