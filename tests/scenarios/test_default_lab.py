# SPDX-License-Identifier: GPL-3.0-or-later
"""The molecule scenario "default" on real virtual machines, step by step, with what a user does wrong in between.

The steps build on each other and run in the order of this file. The lab is called molecule_default; a user's own lab is not
touched, but two labs at once want about 6 GiB of memory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenario import ROOT, VmLab, changed, environment, run, wait_until

LAB = VmLab("molecule_default")


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def molecule(step: str) -> tuple[int, str]:
    return run(["molecule", step, "-s", "default"])


def test_starts_from_nothing() -> None:
    code, _ = molecule("destroy")
    assert code == 0
    assert LAB.remains() == []


def test_check_mode_before_anything_exists_tells_and_changes_nothing() -> None:
    code, output = LAB.playbook("site.yml", "--check")
    assert code == 0
    assert "node1 does not exist yet" in output
    assert LAB.remains() == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            '{"cxl_topology_memories": [{"name": "pool0", "size": "300M", "serial": 1}]}',
            ["300M is no multiple of 256M", "use 256M"],
        ),
        (
            '{"cxl_topology_hosts": [{"name": "node1"}, {"name": "node9"}], "cxl_topology_memories": []}',
            ["node9", "not in the inventory group cxl_hosts"],
        ),
        (
            '{"cxl_topology_hosts": [{"name": "node1", "memory": "900G"}, {"name": "node2"}]}',
            ["cxl_topology_hosts", "lower memory"],
        ),
    ],
)
def test_preflight_refuses_before_anything_is_changed(setting: str, words: list[str]) -> None:
    code, output = LAB.playbook("site.yml", "-e", setting)
    assert code != 0
    assert all(word in " ".join(output.split()) for word in words)
    assert LAB.remains() == []


def test_an_archive_that_cannot_be_reached_is_named() -> None:
    # A suite of its own makes a recipe that no cache holds.
    code, output = LAB.playbook(
        "playbooks/image.yml",
        "-e",
        "cxl_guest_image_mirror=http://127.0.0.1:9/debian",
        "-e",
        '{"cxl_guest_image_extra_packages": ["jq"]}',
    )
    assert code != 0
    assert "guest tree of trixie from http://127.0.0.1:9/debian" in " ".join(output.split())
    assert LAB.remains() == []


def test_a_host_that_dies_at_boot_shows_its_last_words() -> None:
    images = sorted(Path("/var/cache/cxl-lab").glob("guest-*"), key=lambda path: path.stat().st_mtime)
    if not images:
        assert LAB.playbook("playbooks/hypervisor.yml")[0] == LAB.playbook("playbooks/image.yml")[0] == 0
        images = list(Path("/var/cache/cxl-lab").glob("guest-*"))
    paths = {"disk": str(images[-1] / "disk.raw"), "kernel": str(images[-1] / "vmlinuz"), "initrd": str(images[-1] / "vmlinuz")}
    code, output = LAB.playbook("playbooks/create.yml", "-e", json.dumps({"cxl_guest_image_paths": paths}))
    assert code != 0
    text = " ".join(output.split())
    assert "host node" in text
    assert "Kernel panic - not syncing" in text
    assert "serial.log" in text
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []


def test_a_run_that_is_killed_while_hosts_start_is_repaired_by_the_next() -> None:
    command = ["ansible-playbook", *LAB.options(), "playbooks/create.yml"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 600
    while process.poll() is None and not (LAB.folder / "hosts/node1/disk.qcow2").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert LAB.remains(), "it was killed before it had begun"


def test_create() -> None:
    assert molecule("create")[0] == 0


def test_converge() -> None:
    code, output = molecule("converge")
    assert code == 0
    assert "/dev/cbd0" in output


def test_idempotence() -> None:
    code, output = LAB.playbook("site.yml")
    assert code == 0
    assert changed(output) == 0
    assert molecule("idempotence")[0] == 0


def test_check_and_diff_on_a_built_lab_show_no_change() -> None:
    code, output = LAB.playbook("site.yml", "--check", "--diff")
    assert code == 0
    assert changed(output) == 0


def test_verify() -> None:
    assert molecule("verify")[0] == 0


def test_another_setting_is_refused_and_the_host_goes_on_running() -> None:
    booted = LAB.on("node1", "cat", "/proc/sys/kernel/random/boot_id")
    hosts = [{"name": "node1", "memory": "3G"}, {"name": "node2", "memory": "2G", "cpus": 2}]
    code, output = LAB.playbook("playbooks/create.yml", "-e", json.dumps({"cxl_topology_hosts": hosts}))
    assert code != 0
    assert "host.memory" in output
    assert "cxl_topology_recreate=true" in output
    assert LAB.on("node1", "cat", "/proc/sys/kernel/random/boot_id") == booted


def test_a_host_that_rebooted_is_repaired_and_its_files_are_there() -> None:
    booted = LAB.on("node2", "cat", "/proc/sys/kernel/random/boot_id")
    LAB.on("node2", "sh", "-c", "'date > /mnt/cbd0/before-reboot && systemctl reboot'")
    end = time.monotonic() + 150
    while time.monotonic() < end and LAB.answer("node2", "cat", "/proc/sys/kernel/random/boot_id") in ("", booted):
        time.sleep(1)
    wait_until(
        lambda: "pool0" in LAB.answer("node2", "ndctl", "list", "-N"), "the region and its namespace are back by themselves"
    )
    code, output = LAB.playbook("site.yml")
    assert code == 0
    assert "are right" in output
    assert LAB.on("node2", "cat", "/proc/sys/kernel/random/boot_id") != booted
    assert LAB.on("node2", "sh", "-c", "'cd /mnt/cbd0/cxl-verify && sha256sum --quiet -c MANIFEST && echo right'") == "right\n"


def test_destroy_leaves_nothing() -> None:
    assert molecule("destroy")[0] == 0
    assert LAB.remains() == []


def test_destroy_again_is_fine() -> None:
    code, output = LAB.playbook("playbooks/down.yml")
    assert code == 0
    assert changed(output) == 0
