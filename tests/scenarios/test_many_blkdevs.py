# SPDX-License-Identifier: GPL-3.0-or-later
"""CBD on real virtual machines: three backends on two hosts, block devices in both directions, resets and a takeover.

The steps build on each other and run in the order of this file. CXL_LAB_RESETS says how often each machine is reset.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from scenario import ROOT, VmLab, changed, wait_until

RESETS = int(os.environ.get("CXL_LAB_RESETS", "1"))
LAB = VmLab("many_blkdevs", ("-e", f"@{ROOT}/tests/scenarios/many.yml"))
PHASES = ("create", "memory", "datapath")
DISK = "/var/lib/cbd-disk"
DEVICES = {"cbd0": "node2", "cbd1": "node2", "cbd2": "node1"}


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def fio(device: str, size: str, *options: str) -> list[str]:
    """The verifying load that the author of CBD uses: every block carries a checksum that is read back."""
    load = [
        "--rw=randwrite",
        "--bs=8k",
        "--iodepth=32",
        "--ioengine=libaio",
        "--direct=1",
        "--randrepeat=1",
        "--allow_file_create=0",
    ]
    verify = ["--verify=crc32c", "--do_verify=1", "--verify_state_save=0", "--verify_fatal=1", "--output-format=terse"]
    return ["fio", "--name=verify", f"--filename=/dev/{device}", f"--size={size}", *load, *verify, *options]


def serves(name: str) -> bool:
    """Whether the device is there and its requests reach the backend."""
    answer = LAB.answer(DEVICES[name], "cxl-datapath", "cbd", "blkdev", "list", "pool0", "--json")
    rows = [row for row in json.loads(answer or "[]") if row.get("name") == name]
    return bool(rows) and rows[0]["worker"]["info"].get("path_state") == "serving"


def under_way(host: str, load: subprocess.Popen[str]) -> None:
    """Returns when the load has been writing for some seconds."""
    wait_until(lambda: LAB.answer(host, "pgrep", "-x", "fio"), "fio runs", 60)
    time.sleep(5)
    assert load.poll() is None, load.communicate()[0]


def test_three_backends_and_three_blkdevs_in_both_directions() -> None:
    for phase in PHASES:
        assert LAB.playbook(f"playbooks/{phase}.yml")[0] == 0
    # Written once, so that a reset of the machine leaves its blocks where they are.
    LAB.on("node1", "sh", "-c", f"'dd if=/dev/zero of={DISK} bs=1M count=256 oflag=direct status=none && sync'")
    assert LAB.playbook("playbooks/cbd.yml")[0] == 0
    code, output = LAB.playbook("playbooks/cbd.yml")
    assert (code, changed(output)) == (0, 0)


def test_sizes_and_limits_in_sysfs_are_those_of_the_backing_devices() -> None:
    for device, host in DEVICES.items():
        name = LAB.on(host, "basename", "$(readlink", f"/dev/{device})").strip()
        queue = f"/sys/block/{name}/queue"
        backing_host, backing = {"cbd0": ("node1", "/dev/ram0"), "cbd1": ("node1", DISK), "cbd2": ("node2", "/dev/ram0")}[device]
        size = (320 if device == "cbd0" else 256) << 20
        assert LAB.on(host, "cat", f"/sys/block/{name}/size").strip() == str(size // 512)
        assert LAB.on(host, "cat", f"{queue}/logical_block_size").strip() == "512"
        assert LAB.on(host, "cat", f"{queue}/physical_block_size").strip() == "4096"
        assert LAB.on(host, "cat", f"{queue}/max_hw_sectors_kb").strip() == "64"
        assert len(LAB.on(host, "ls", f"/sys/block/{name}/mq").split()) == 4
        discards = LAB.on(host, "cat", f"{queue}/discard_max_bytes").strip() != "0"
        assert discards == (backing.startswith("/var") or _discards(backing_host, backing))


def _discards(host: str, device: str) -> bool:
    return LAB.on(host, "cat", f"/sys/block/{device.removeprefix('/dev/')}/queue/discard_max_bytes").strip() != "0"


def test_fio_verifies_all_of_them_together() -> None:
    running = {device: LAB.background(host, *fio(device, "48M")) for device, host in DEVICES.items()}
    for device, process in running.items():
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, f"{device}:\n{output}"


def test_xfs_under_a_database_like_load_is_the_same_on_the_backing_device() -> None:
    LAB.on("node2", "sh", "-c", "'mkfs.xfs -q -f /dev/cbd0 && mkdir -p /mnt/db && mount /dev/cbd0 /mnt/db'")
    load = ["--rw=randrw", "--rwmixread=70", "--bs=8k", "--fsync=8", "--ioengine=libaio", "--iodepth=8", "--size=24M"]
    LAB.on("node2", "fio", "--name=db", "--directory=/mnt/db", *load, "--verify=crc32c", "--verify_state_save=0", "--numjobs=2")
    LAB.on("node2", "sh", "-c", "'cp -r /etc /usr/share/perl5 /mnt/db/ 2>/dev/null; cp -r /etc /mnt/db/again; sync'")
    sums = "'cd /mnt/db && find . -type f -print0 | sort -z | xargs -0 sha256sum'"
    there = LAB.on("node2", "sh", "-c", sums)
    LAB.on("node2", "umount", "/mnt/db")
    mount = "'mkdir -p /mnt/db && mount -o ro,norecovery,loop /dev/ram0 /mnt/db'"
    LAB.on("node1", "sh", "-c", mount)
    try:
        assert LAB.on("node1", "sh", "-c", sums) == there
        assert len(there.splitlines()) > 100
    finally:
        LAB.on("node1", "umount", "/mnt/db")


@pytest.mark.parametrize("turn", range(RESETS))
def test_a_reset_of_the_backends_host_is_a_pause(turn: int) -> None:
    booted = LAB.boot_id("node1")
    load = LAB.background("node2", *fio("cbd1", "96M", f"--randseed={turn + 1}"))
    under_way("node2", load)
    LAB.virsh("reset", LAB.domain("node1"))
    wait_until(lambda: LAB.boot_id("node1") not in ("", booted), "node1 boots again")
    output, _ = load.communicate(timeout=600)
    assert load.returncode == 0, output


@pytest.mark.parametrize("turn", range(RESETS))
def test_a_reset_of_the_blkdevs_host_loses_nothing_that_was_acknowledged(turn: int) -> None:
    wait_until(lambda: serves("cbd1"), "the device serves")
    written = fio("cbd1", "32M", f"--randseed={100 + turn}", "--end_fsync=1")
    LAB.on("node2", *written, "--do_verify=0")
    booted = LAB.boot_id("node2")
    load = LAB.background("node2", *fio("cbd1", "32M", "--offset=64M", "--time_based", "--runtime=60"))
    under_way("node2", load)
    LAB.virsh("reset", LAB.domain("node2"))
    wait_until(lambda: LAB.boot_id("node2") not in ("", booted), "node2 boots again")
    load.kill()
    load.wait()
    wait_until(lambda: serves("cbd1"), "the device is there again")
    LAB.on("node2", *written, "--verify_only=1")


def test_a_takeover_with_copies_of_the_media_goes_on_where_the_dead_host_ended() -> None:
    LAB.playbook("playbooks/cbd.yml")
    for device in ("cbd0", "cbd1"):
        wait_until(lambda name=device: serves(name), f"{device} serves")
        LAB.on("node2", *fio(device, "16M", "--do_verify=0", "--end_fsync=1"))
        copy = f"dd if=/dev/{device} of=/var/lib/copy-of-{device} bs=1M iflag=direct oflag=direct status=none"
        LAB.on("node2", "sh", "-c", f"'{copy} && sync'")
    variables = {
        "recover_host": "node1",
        "recover_to": "node2",
        "recover_paths": {"0": "/var/lib/copy-of-cbd0", "1": "/var/lib/copy-of-cbd1"},
    }
    code, output = LAB.playbook("playbooks/recover.yml", "-e", json.dumps(variables))
    assert code == 0, output
    for device in ("cbd0", "cbd1"):
        wait_until(lambda name=device: serves(name), f"{device} goes on")
        LAB.on("node2", *fio(device, "16M", "--verify_only=1"))
    code, output = LAB.playbook("playbooks/recover.yml", "-e", json.dumps(variables))
    assert (code, changed(output)) == (0, 0)


def test_the_front_ends_of_a_real_kernel() -> None:
    """The tests that skip where the kernel has no ublk, with daemons and devices of their own beside those of the lab."""
    LAB.suite("node2", "test_kernel_frontends.py")


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
