# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab on a kernel that the user brings: the newest that Debian has for the guests' release, as packages and as an image.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scenario import VmLab, changed, tool

SMALL = json.dumps({"cxl_topology_hosts": [{"name": "node1", "memory": "1G"}, {"name": "node2", "memory": "1G"}]})
LAB = VmLab("molecule_kernel", ("-e", SMALL))
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVE = f"deb [signed-by={KEYS}] http://deb.debian.org/debian trixie-backports main\n"


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


@dataclass(frozen=True)
class Kernel:
    version: str
    debs: list[str]
    image: Path
    modules: Path


def newest(told: str) -> str:
    """The version of the newest kernel that a text of dependencies speaks of."""
    return max(re.findall(r"linux-image-([0-9][^ ,]*)", told), key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """The packages of the newest kernel, by an apt whose lists are apart from this machine's, and their content."""
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "lists/partial").mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(ARCHIVE, encoding="utf-8")
    places = {"Dir::Etc::sourcelist": "sources.list", "Dir::State::status": "status", "Dir::State": "", "Dir::Cache": ""}
    options = ["-q", "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root"]
    for name, place in places.items():
        options += ["-o", f"{name}={folder / place}"]
    tool("apt-get", *options, "update", cwd=folder)
    version = newest(tool("apt-cache", *options, "show", "linux-image-amd64", cwd=folder))
    known = tool("apt-cache", *options, "pkgnames", "linux-", cwd=folder).split()
    packages = ["linux-base", *(f"linux-{part}-{version}" for part in ("base", "binary", "image", "modules"))]
    tool("apt-get", *options, "download", *(name for name in packages if name in known), cwd=folder)
    debs = sorted(folder.glob("*.deb"))
    for deb in debs:
        tool("dpkg-deb", "-x", str(deb), "content", cwd=folder)
    (modules,) = (folder / "content").rglob(f"lib/modules/{version}")
    image = next(path for path in (folder / "content").rglob("vmlinuz*") if path.is_file())
    return Kernel(version, [str(deb) for deb in debs], image, modules)


def given(**options: object) -> tuple[str, str]:
    return "-e", json.dumps({f"cxl_guest_image_{name}": value for name, value in options.items()})


def running() -> str:
    return LAB.on("node1", "uname", "-r").strip()


def test_a_lab_on_its_packages_delivers_every_byte(kernel: Kernel) -> None:
    code, output = LAB.playbook("site.yml", *given(kernel_debs=kernel.debs))
    assert code == 0, output
    assert "are right" in output
    assert running() == kernel.version


def test_the_second_run_changes_nothing(kernel: Kernel) -> None:
    code, output = LAB.playbook("site.yml", *given(kernel_debs=kernel.debs))
    assert (code, changed(output)) == (0, 0)


def test_another_kernel_needs_other_machines(kernel: Kernel) -> None:
    options = given(kernel_image=str(kernel.image), kernel_modules=str(kernel.modules))
    code, output = LAB.playbook("playbooks/create.yml", *options)
    assert code != 0 and "recreate" in output
    code, output = LAB.playbook("site.yml", *options, "-e", "cxl_topology_recreate=true")
    assert code == 0, output
    assert "are right" in output
    assert running() == kernel.version


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
