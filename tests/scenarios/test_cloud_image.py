# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab on a cloud image, which is made here in the manner of Debian's genericcloud, with what such an image brings along.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenario import VmLab, changed, tool

HOSTS = json.dumps({"cxl_topology_hosts": [{"name": "node1", "memory": "1G"}, {"name": "node2", "memory": "1G"}]})
LAB = VmLab("molecule_cloud", ("-e", HOSTS))
PACKAGES = (
    "systemd-sysv,systemd-resolved,dbus,udev,cloud-init,netplan.io,linux-image-cloud-amd64,grub-cloud-amd64,openssh-server,sudo"
)
NETPLAN = "network: {version: 2, ethernets: {all-en: {match: {name: en*}, dhcp4: true}}}"
#: The archives of the cloud, which cannot be reached from outside of the image.
SOURCES = "Types: deb\\nURIs: mirror+file:///etc/apt/mirrors/debian.list\\nSuites: trixie\\nComponents: main\\n"
LAYOUT = "label: gpt\nfirst-lba: 34\n15: start=2048, size=4096, type=uefi\n1: start=8192, size=5242880, type=linux\n"


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 with a partition table, as a cloud gets it."""
    folder = tmp_path_factory.mktemp("cloud")
    tree, root, disk, cloud = (folder / name for name in ("tree", "root", "disk", "cloud.qcow2"))
    as_cloud = (
        f"echo '{NETPLAN}' > \"$1\"/etc/netplan/90-default.yaml",
        'rm "$1"/etc/apt/sources.list',
        f"printf '{SOURCES}' > \"$1\"/etc/apt/sources.list.d/debian.sources",
    )
    options = ["--mode=root", "--format=directory", "--variant=apt", f"--include={PACKAGES}"]
    tool("mmdebstrap", *options, *(f"--customize-hook={hook}" for hook in as_cloud), "trixie", tree)
    tool("mke2fs", "-q", "-t", "ext4", "-d", tree, root, "2560M")
    shutil.rmtree(tree)
    tool("truncate", "-s", "2700M", disk)
    tool("sfdisk", "-q", disk, input=LAYOUT)
    tool("dd", f"if={root}", f"of={disk}", "bs=4M", "seek=1", "conv=notrunc,sparse", "status=none")
    tool("qemu-img", "convert", "-O", "qcow2", disk, cloud)
    root.unlink()
    disk.unlink()
    return cloud


@pytest.fixture(scope="module")
def options(image: Path) -> tuple[str, ...]:
    digits = hashlib.sha256(image.read_bytes()).hexdigest()
    given = {"cxl_guest_image_cloud_image": image.as_uri(), "cxl_guest_image_cloud_checksum": f"sha256:{digits}"}
    return ("-e", json.dumps(given))


def test_another_checksum_is_refused(image: Path) -> None:
    given = {"cxl_guest_image_cloud_image": str(image), "cxl_guest_image_cloud_checksum": f"sha256:{'0' * 64}"}
    code, output = LAB.playbook("playbooks/image.yml", "-e", json.dumps(given))
    assert code != 0 and "has another checksum than it should" in " ".join(output.split())


def test_the_lab_comes_up_and_delivers_every_byte(options: tuple[str, ...]) -> None:
    code, output = LAB.playbook("site.yml", *options)
    assert code == 0, output
    assert "are right" in output


def test_the_second_run_changes_nothing(options: tuple[str, ...]) -> None:
    code, output = LAB.playbook("site.yml", *options)
    assert (code, changed(output)) == (0, 0)


def test_it_is_the_system_of_the_image_with_the_kernel_of_the_lab() -> None:
    assert LAB.on("node1", "dpkg-query", "-W", "-f", "'${db:Status-Status}'", "cloud-init") == "installed"
    assert "cloud" not in LAB.on("node1", "uname", "-r")
    assert LAB.on("node1", "test", "-e", "/run/cloud-init/disabled", "&&", "echo", "off").strip() == "off"


def test_its_networks_are_those_of_the_lab() -> None:
    LAB.on("node1", "ping", "-c", "1", "-W", "20", "node2")


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
