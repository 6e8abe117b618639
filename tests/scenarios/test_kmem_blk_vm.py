# SPDX-License-Identifier: GPL-3.0-or-later
"""kmem_blk on a real virtual machine: a file system on devdax, swap for every program, growth, leases, and a reset.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from scenario import ROOT, VmLab, changed, wait_until

EXTRA = ROOT / "tests/scenarios/kmem_blk.yml"
LAB = VmLab("kmem_blk", ("-e", f"@{EXTRA}"))
POOL = yaml.safe_load(EXTRA.read_text())["kmem_blk_pools"][0]
MORE = "serial:0xc0de0002"
PHASES = ("create", "memory", "datapath", "kmem_blk")
PYTHON = "/opt/cxl-datapath/current/bin/python3"
SUMS = "'cd /mnt/kmem && find . -type f -print0 | sort -z | xargs -0 sha256sum'"
MIB = 1 << 20
PAGE = 4096
SWAP = {"size": "320M", "priority": 100}
# Needs nearly all the memory that node1 has; then it says so, and may wait.
HUNGRY = """
import sys, time
data = [bytes([n % 251]) * (1 << 20) for n in range(900)]
assert all(block[77] == n % 251 for n, block in enumerate(data))
print("complete", flush=True)
del data[int(sys.argv[1]):]
time.sleep(float(sys.argv[2]))
"""
# Leases all that it can get, says what it is asked to give back, and gives nothing.
GREEDY = """
import sys, time
from pathlib import Path
from cxl_datapath.errors import DatapathError
from cxl_datapath.kmem_blk.client import PoolClient
with PoolClient(Path("/run/cxl-datapath/kmem.pool")) as pool:
    maps, pages = [], 8192
    while True:
        try:
            lease = pool.lease(pages)
            maps += [lease.map_extent(number) for number in range(len(lease.extents))]
            continue
        except DatapathError as error:
            assert error.code == "full", error
        if pages == 512:
            print("has", sum(map(len, maps)), flush=True)
            time.sleep(0.5)
        pages = 512
        for event in pool.recalls():
            print("asked", event["lease"], flush=True)
"""
LEASE = """
from pathlib import Path
from cxl_datapath.kmem_blk.client import PoolClient
with PoolClient(Path("/run/cxl-datapath/kmem.pool")) as pool, pool.lease(512) as lease:
    memory = lease.map()
    assert memory[:5] == bytes(5)
    memory[:5] = b"hello"
    print(len(memory))
    memory.close()
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def pool() -> dict[str, Any]:
    rows = json.loads(LAB.answer("node1", "cxl-datapath", "kmem-blk", "pool", "list", "--json") or "[]")
    return rows[0] if rows else {}


def pages() -> dict[str, int]:
    found: dict[str, int] = {}

    def answered() -> bool:
        found.update(pool().get("pages", {}))
        return bool(found)

    wait_until(answered, "the pool answers")
    return found


def serves(device: str) -> bool:
    return ((pool().get(device) or {}).get("worker") or {}).get("state") == "running"


def want(**changes: Any) -> int:
    """Runs the phase with other settings of the pool; returns how much it changed."""
    code, output = LAB.playbook("playbooks/kmem_blk.yml", "-e", json.dumps({"kmem_blk_pools": [{**POOL, **changes}]}))
    assert code == 0, output
    return changed(output)


def shell(script: str) -> str:
    return LAB.on("node1", "sh", "-c", f"'{script}'")


def put(name: str, text: str) -> str:
    """A file on node1; a remote shell would take the text apart."""
    shell(f"echo {base64.b64encode(text.encode()).decode()} | base64 -d > /tmp/{name}")
    return f"/tmp/{name}"


def scope(unit: str, *command: str) -> tuple[str, ...]:
    """A command whose death for want of memory is nobody else's: systemd ends what shares a service with it."""
    return ("systemd-run", "--scope", "--quiet", "--collect", f"--unit={unit}", "-p", "OOMPolicy=continue", *command)


def output_of(name: str) -> str:
    return LAB.on("node1", "cat", f"/tmp/{name}.out")


@contextlib.contextmanager
def beside(unit: str, *command: str) -> Iterator[None]:
    """Runs a command on node1 meanwhile, with its output in /tmp/<unit>.out."""
    words = " ".join(command)
    shell(": > " + f"/tmp/{unit}.out")
    process = LAB.background("node1", *scope(unit, "sh", "-c", f"'{words} > /tmp/{unit}.out 2>&1'"))
    try:
        yield
    finally:
        LAB.answer("node1", "systemctl", "stop", f"{unit}.scope")
        process.wait()


def hungry(keep: int = 900, pause: float = 0) -> str:
    """How a program that needs 900 MiB ends: its last words and its status."""
    program = put("hungry.py", HUNGRY)
    words = f"'python3 {program} {keep} {pause}; echo status $?'"
    return LAB.on("node1", *scope("hungry", "sh", "-c", words))


def dd(count: int, seek: int = 0) -> str:
    """Writes so many MiB to the device; "" or what went wrong."""
    command = f"dd if=/dev/zero of=/dev/kmem0 bs=1M count={count} seek={seek} oflag=direct conv=notrunc status=none"
    return LAB.on("node1", "sh", "-c", f"'{command} 2>&1 || true'").strip()


def test_a_pool_on_devdax() -> None:
    for phase in PHASES:
        assert LAB.playbook(f"playbooks/{phase}.yml")[0] == 0
    code, output = LAB.playbook("playbooks/kmem_blk.yml")
    assert (code, changed(output)) == (0, 0)
    row = pool()
    assert row["volume"]["device"] == "/dev/kmem0" and row["ranges"][0]["memory"] == "serial:0xc0de0001"


def test_files_survive_a_restart_of_the_daemon_and_a_reset_of_the_machine() -> None:
    shell("mkfs.xfs -q -f /dev/kmem0 && mkdir -p /mnt/kmem && mount /dev/kmem0 /mnt/kmem")
    shell("cp -r /etc /usr/share/perl5 /mnt/kmem/ && umount /mnt/kmem && mount /dev/kmem0 /mnt/kmem")
    before = LAB.on("node1", "sh", "-c", SUMS)
    assert len(before.splitlines()) > 100
    LAB.on("node1", "systemctl", "restart", "cxl-datapathd")
    wait_until(lambda: serves("volume"), "the device is back")
    shell("sync && echo 3 > /proc/sys/vm/drop_caches")
    assert LAB.on("node1", "sh", "-c", SUMS) == before
    booted = LAB.boot_id("node1")
    LAB.virsh("reset", LAB.domain("node1"))
    wait_until(lambda: LAB.boot_id("node1") not in ("", booted), "node1 boots again", 420)
    wait_until(lambda: serves("volume"), "the device is there again", 300)
    shell("mkdir -p /mnt/kmem && mount /dev/kmem0 /mnt/kmem")
    assert LAB.on("node1", "sh", "-c", SUMS) == before


def test_fstrim_gives_the_pages_of_deleted_files_back() -> None:
    shell("dd if=/dev/urandom of=/mnt/kmem/big bs=1M count=64 conv=fsync status=none")
    full = pages()["free"]
    shell("rm /mnt/kmem/big && sync")

    def trimmed() -> bool:
        shell("fstrim /mnt/kmem")
        return pages()["free"] - full >= 64 * MIB // PAGE

    # The file system frees the blocks of a deleted file in the background.
    wait_until(trimmed, "all 64 MiB are free again")


def test_verified_writes_beside_discards() -> None:
    load = ["--rw=randwrite", "--bs=8k", "--iodepth=16", "--ioengine=libaio", "--direct=1", "--size=48M"]
    verify = ["--verify=crc32c", "--do_verify=1", "--verify_state_save=0", "--verify_fatal=1"]
    turn = "dd if=/dev/zero of=/mnt/kmem/other bs=1M count=8 conv=fsync; rm /mnt/kmem/other; fstrim /mnt/kmem; echo turn"
    with beside("discards", "sh", put("discards.sh", f"while true; do {turn}; done\n")):
        LAB.on("node1", "fio", "--name=verify", "--directory=/mnt/kmem", *load, *verify)
        assert output_of("discards").count("turn") > 1
    shell("umount /mnt/kmem && blkdiscard /dev/kmem0")
    assert pages()["blocks"] == 0


def test_a_program_that_needs_more_memory_than_there_is() -> None:
    assert "status 137" in hungry()
    assert want(swap=SWAP) > 0
    assert want(swap=SWAP) == 0
    assert "ublk" in LAB.on("node1", "swapon", "--show=NAME", "--noheadings")
    lived = hungry()
    assert "complete" in lived and "status 0" in lived, lived
    # What it had swapped out is free again: the kernel discards.
    wait_until(lambda: pages()["swap"] < 64 * MIB // PAGE, "swap slots come back")


def test_blocks_are_written_under_memory_pressure_up_to_the_reserve() -> None:
    want(swap=SWAP, lease_limit="512M")
    with beside("hungry", "python3", put("hungry.py", HUNGRY), "750", "900"):
        wait_until(lambda: "complete" in output_of("hungry"), "the program has what it needs", 300)
        assert pages()["swap"] > 0
        with beside("greedy", PYTHON, put("greedy.py", GREEDY)):
            wait_until(lambda: "has" in output_of("greedy"), "everything that may be leased is leased")
            reserve = 64 * MIB // PAGE
            wait_until(lambda: reserve <= pages()["available"] < reserve + 512, "nothing but the reserve is left")
            assert dd(64) == ""
            assert "asked" not in output_of("greedy")
            assert "No space left" in dd(16, seek=64)
            assert "asked" in output_of("greedy")
        wait_until(lambda: pages()["leases"] == 0, "the pages of a client that is gone come back")
        assert dd(16, seek=64) == ""
        assert "inactive" not in LAB.on("node1", "systemctl", "is-active", "hungry.scope"), "the other program is well"


def test_blocks_get_the_pages_of_swap_that_fits_into_memory() -> None:
    want(swap=SWAP)
    with beside("hungry", "python3", put("hungry.py", HUNGRY), "300", "600"):
        wait_until(lambda: "complete" in output_of("hungry"), "the program has less than it had", 300)
        assert pages()["swap"] > 0
        blocks = pool()["capacity"] // MIB
        assert dd(blocks) == "", "every block of the volume has a page"
        assert pages()["blocks"] == blocks * MIB // PAGE
        shell("blkdiscard /dev/kmem0")
        wait_until(lambda: "ublk" in LAB.answer("node1", "swapon", "--show=NAME", "--noheadings"), "it swaps again")


def test_swap_goes_and_its_pages_come_back() -> None:
    want()
    assert pages()["swap"] == 0
    assert "ublk" not in LAB.on("node1", "swapon", "--show=NAME", "--noheadings")


def test_the_pool_grows_by_a_memory_and_gives_it_back() -> None:
    before = pages()["pages"]
    want(memories=[*POOL["memories"], MORE])
    assert pages()["pages"] > before
    want()
    assert pages()["pages"] == before
    assert len(pool()["ranges"]) == 1


def test_a_lease_of_the_device() -> None:
    assert LAB.on("node1", PYTHON, put("lease.py", LEASE)).strip() == str(2 * MIB)
    assert pages()["leases"] == 0


def test_the_checker_finds_nothing_and_down_leaves_nothing() -> None:
    want(state="absent")
    assert "clean: yes" in LAB.on("node1", "cxl-datapath", "kmem-blk", "check", "serial:0xc0de0001")
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
