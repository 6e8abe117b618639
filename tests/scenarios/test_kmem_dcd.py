# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool of pages on a real virtual machine grows by an accepted extent of dynamic capacity, swaps into it, and gives it back.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from scenario import ROOT, VmLab, changed, wait_until

EXTRA = ROOT / "tests/scenarios/kmem_dcd.yml"
LAB = VmLab("kmem_dcd", ("-e", f"@{EXTRA}"))
SERIAL, MAPPING = "0xc0de0001", "more"
EXTENT = f"dcd:{SERIAL}/{MAPPING}"
MEMORY = "/dev/shm/pages"  # of the guest: the pool's first memory
MIB = 1 << 20
POOL: dict[str, Any] = {"name": "kmem", "host": "node1", "memories": [MEMORY], "swap": {"size": "160M"}}
# Needs 80 MiB more than is free on node1, half of what swap may have; says where the pages of the swap are, then ends.
HUNGRY = """
import re, subprocess
free = int(re.search(r"MemAvailable: +(\\d+)", open("/proc/meminfo").read())[1]) >> 10
data = [bytes([n % 251]) * (1 << 20) for n in range(free + 80)]
subprocess.run(["cxl-datapath", "kmem-blk", "pool", "list", "--json"], check=True)
assert all(block[77] == n % 251 for n, block in enumerate(data))
"""
# Has 100 MiB that nobody touches for a while, and looks at them when it is asked to.
COLD = """
import pathlib, time
data = [bytes([n % 251]) * (1 << 20) for n in range(100)]
pathlib.Path("/run/cold.filled").touch()
while not pathlib.Path("/run/cold.look").exists():
    time.sleep(0.5)
assert all(block == bytes([n % 251]) * (1 << 20) for n, block in enumerate(data))
pathlib.Path("/run/cold.whole").touch()
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def datapath(*words: str) -> Any:
    return json.loads(LAB.on("node1", "cxl-datapath", *words, "--json"))


def pool() -> dict[str, Any]:
    return dict(datapath("kmem-blk", "pool", "list")[0])


def put(name: str, program: str) -> str:
    """A file of node1."""
    LAB.on("node1", f"echo {base64.b64encode(program.encode()).decode()} | base64 -d > /tmp/{name}")
    return f"/tmp/{name}"


def exists(path: str) -> bool:
    return LAB.on("node1", f"test -e {path} && echo yes || true").strip() == "yes"


def want(**changes: Any) -> int:
    code, output = LAB.playbook("playbooks/kmem_blk.yml", "-e", json.dumps({"kmem_blk_pools": [{**POOL, **changes}]}))
    assert code == 0, output
    return changed(output)


def test_an_extent_for_node1_and_a_pool() -> None:
    for phase in ("create", "datapath", "dcd"):
        assert LAB.playbook(f"playbooks/{phase}.yml")[0] == 0
    assert [row["size"] for row in datapath("dcd", "extents")] == [128 * MIB]
    LAB.on("node1", "truncate", "-s", "64M", MEMORY)
    want()
    assert [row["memory"] for row in pool()["ranges"]] == [MEMORY]


def test_the_pool_grows_by_it() -> None:
    LAB.on("node1", "cxl-datapath", "dcd", "map", SERIAL, MAPPING, "0", "128M")
    before = pool()["pages"]
    assert want(memories=[MEMORY, EXTENT]) > 0
    assert want(memories=[MEMORY, EXTENT]) == 0
    assert pool()["pages"]["free"] == before["free"] + 128 * MIB // 4096 - 1
    assert pool()["ranges"][1]["volatile"]
    refused = LAB.on("node1", "sh", "-c", f"'cxl-datapath dcd unmap {SERIAL} {MAPPING} 2>&1 || true'")
    assert "is memory of pool kmem" in refused


def test_swap_lives_in_it() -> None:
    hungry = put("hungry.py", HUNGRY)
    scope = ["systemd-run", "--scope", "--quiet", "--collect", "-p", "OOMPolicy=continue"]
    meanwhile = json.loads(LAB.on("node1", *scope, "python3", hungry))[0]
    first, extent = meanwhile["ranges"]
    assert extent["used"] > 0
    header = 1  # of the swap: it was there before the extent
    assert first["used"] <= header or extent["used"] == extent["pages"] - 1, "the first memory is for blocks while there is room"


def test_more_is_swapped_out_than_fits_into_the_rest_of_the_pool() -> None:
    LAB.on("node1", "systemd-run", "--quiet", "--unit=cold", "python3", put("cold.py", COLD))
    wait_until(lambda: exists("/run/cold.filled"), "the program has its memory")
    group = "/sys/fs/cgroup/system.slice/cold.service/memory.reclaim"

    def swapped() -> bool:
        LAB.on("node1", f"echo 100M > {group} || true")  # it complains when it got less
        return bool(pool()["ranges"][1]["used"] > 64 * MIB // 4096)

    wait_until(swapped, "its memory is in the extent")


def test_it_goes_back_when_the_fabric_wants_it() -> None:
    device = {"device": "pool0", "host": "node1", "tag": "more", "state": "absent"}
    gone = ["-e", json.dumps({"dcd_extents": [device], "dcd_wait_timeout": 5})]
    code, output = LAB.playbook("playbooks/dcd.yml", *gone)
    assert code != 0 and "the host uses it" in " ".join(output.split()), output
    assert datapath("dcd", "extents")[0]["asked_back"]
    want()
    assert [row["memory"] for row in pool()["ranges"]] == [MEMORY]
    wait_until(lambda: pool()["swap"].get("swap", "on") == "on", "swap that had to go into memory is back")
    LAB.on("node1", "touch", "/run/cold.look")
    wait_until(lambda: exists("/run/cold.whole"), "the program has its memory as it was")
    LAB.on("node1", "cxl-datapath", "dcd", "unmap", SERIAL, MAPPING)
    assert datapath("dcd", "extents") == []


def test_down_leaves_nothing() -> None:
    want(state="absent")
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
