# SPDX-License-Identifier: GPL-3.0-or-later
"""kmem_blk on a real virtual machine: a file system on devdax, swap for every program, growth, leases, and a reset.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

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
SUMS = "'cd /mnt/kmem && find . -type f -print0 | sort -z | xargs -0 sha256sum'"
# Needs more memory than node1 has, and says so when it is done.
HUNGRY = (
    "data=[bytes([n%251])*(1<<20) for n in range(850)]; assert all(d[77]==n%251 for n,d in enumerate(data)); print(len(data))"
)


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def pool() -> dict[str, Any]:
    rows = json.loads(LAB.answer("node1", "cxl-datapath", "kmem-blk", "pool", "list", "--json") or "[]")
    return rows[0] if rows else {}


def pages() -> dict[str, int]:
    wait_until(lambda: "pages" in pool(), "the pool answers")
    return pool()["pages"]


def want(**changes: Any) -> tuple[int, str]:
    """Runs the phase with other settings of the pool."""
    return LAB.playbook("playbooks/kmem_blk.yml", "-e", json.dumps({"kmem_blk_pools": [{**POOL, **changes}]}))


def shell(script: str) -> str:
    return LAB.on("node1", "sh", "-c", f"'{script}'")


def test_a_pool_on_devdax() -> None:
    for phase in PHASES:
        assert LAB.playbook(f"playbooks/{phase}.yml")[0] == 0
    code, output = LAB.playbook("playbooks/kmem_blk.yml")
    assert (code, changed(output)) == (0, 0)
    row = pool()
    assert row["volume"]["device"] == "/dev/kmem0" and row["ranges"][0]["memory"] == "serial:0xc0de0001"


def test_files_survive_a_restart_of_the_daemon_and_a_reset_of_the_machine() -> None:
    shell("mkfs.xfs -q -f /dev/kmem0 && mkdir -p /mnt/kmem && mount /dev/kmem0 /mnt/kmem")
    shell("cp -r /etc /usr/share/perl5 /mnt/kmem/ && sync")
    before = LAB.on("node1", "sh", "-c", SUMS)
    assert len(before.splitlines()) > 100
    LAB.on("node1", "systemctl", "restart", "cxl-datapathd")
    wait_until(lambda: pool().get("volume", {}).get("worker", {}).get("state") == "running", "the device is back")
    shell("sync && echo 3 > /proc/sys/vm/drop_caches")
    assert LAB.on("node1", "sh", "-c", SUMS) == before
    booted = LAB.boot_id("node1")
    LAB.virsh("reset", LAB.domain("node1"))
    wait_until(lambda: LAB.boot_id("node1") not in ("", booted), "node1 boots again", 420)
    wait_until(lambda: (pool().get("volume") or {}).get("worker", {}).get("state") == "running", "the device is there again", 300)
    shell("mkdir -p /mnt/kmem && mount /dev/kmem0 /mnt/kmem")
    assert LAB.on("node1", "sh", "-c", SUMS) == before


def test_fstrim_gives_the_pages_of_deleted_files_back() -> None:
    shell("dd if=/dev/urandom of=/mnt/kmem/big bs=1M count=64 conv=fsync status=none")
    full = pages()
    shell("rm /mnt/kmem/big && sync && fstrim /mnt/kmem")
    # xfs keeps a little for its log and its metadata.
    assert pages()["free"] - full["free"] >= (60 << 20) // 4096


def test_verified_writes_beside_discards() -> None:
    load = ["--rw=randwrite", "--bs=8k", "--iodepth=16", "--ioengine=libaio", "--direct=1", "--size=48M"]
    verify = ["--verify=crc32c", "--do_verify=1", "--verify_state_save=0", "--verify_fatal=1"]
    LAB.on("node1", "fio", "--name=verify", "--directory=/mnt/kmem", *load, *verify)
    shell("rm -f /mnt/kmem/verify* && fstrim /mnt/kmem && umount /mnt/kmem")


def test_a_program_that_needs_more_memory_than_there_is() -> None:
    killed = LAB.answer("node1", "sh", "-c", f"'python3 -c \"{HUNGRY}\"; echo status $?'")
    assert "status 137" in killed, killed
    code, output = want(swap={"size": "256M", "priority": 100})
    assert code == 0, output
    assert changed(want(swap={"size": "256M", "priority": 100})[1]) == 0
    assert "ublk" in LAB.on("node1", "swapon", "--show=NAME", "--noheadings")
    lived = LAB.answer("node1", "sh", "-c", f"'python3 -c \"{HUNGRY}\"; echo status $?'")
    assert "status 0" in lived, lived
    # What it had swapped out is free again: the kernel discards.
    wait_until(lambda: pages()["swap"] < (64 << 20) // 4096, "swap slots come back")


def test_blocks_are_written_under_memory_pressure_up_to_the_reserve() -> None:
    hungry = LAB.background("node1", "sh", "-c", f"'python3 -c \"{HUNGRY}; import time; time.sleep(60)\"'")
    wait_until(lambda: pages()["swap"] > 0, "the program swaps", 300)
    LAB.on("node1", "dd", "if=/dev/zero", "of=/dev/kmem0", "bs=1M", "count=64", "oflag=direct", "status=none")
    hungry.kill()
    hungry.wait()


def test_swap_goes_and_its_pages_come_back() -> None:
    LAB.answer("node1", "pkill", "-x", "python3")
    code, output = want()
    assert code == 0, output
    assert pages()["swap"] == 0
    assert "ublk" not in LAB.on("node1", "swapon", "--show=NAME", "--noheadings")


def test_the_pool_grows_by_a_memory_and_gives_it_back() -> None:
    before = pages()
    code, output = want(memories=[*POOL["memories"], MORE])
    assert code == 0, output
    assert pages()["pages"] > before["pages"]
    code, output = want()
    assert code == 0, output
    assert pages()["pages"] == before["pages"]
    assert len(pool()["ranges"]) == 1


def test_a_lease_of_the_device() -> None:
    program = (
        "from pathlib import Path; from cxl_datapath.kmem_blk.client import PoolClient\n"
        'with PoolClient(Path("/run/cxl-datapath/kmem.pool")) as pool, pool.lease(512) as lease:\n'
        '    memory = lease.map(); memory[:5] = b"hello"; print(len(memory)); memory.close()\n'
    )
    LAB.on("node1", "sh", "-c", f"'cat > /tmp/lease.py <<END\n{program}END'")
    assert LAB.on("node1", "/opt/cxl-datapath/current/bin/python3", "/tmp/lease.py").strip() == str(2 << 20)
    assert pages()["leases"] == 0


def test_the_checker_finds_nothing_and_down_leaves_nothing() -> None:
    code, output = want(state="absent")
    assert code == 0, output
    assert "clean" in LAB.on("node1", "cxl-datapath", "kmem-blk", "check", "serial:0xc0de0001")
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
