# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_guest_image as Ansible runs it; the tree comes from a pretended mmdebstrap."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import debian_root
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_guest_image
from fakes import FakeRunner, run_module


class Machine(FakeRunner):
    """mmdebstrap makes these files below the tree; mke2fs remembers what it was given."""

    def __init__(self) -> None:
        super().__init__({"mmdebstrap": self.tree, "mke2fs": self.disk})
        self.files = {
            "boot/vmlinuz-6.12.1": "older kernel",
            "boot/vmlinuz-6.12.9": "kernel",
            "boot/initrd.img-6.12.1": "older initrd",
            "boot/initrd.img-6.12.9": "initrd",
            "etc/machine-id": "0123456789abcdef\n",
            "etc/ssh/ssh_host_ed25519_key": "PRIVATE",
            "etc/ssh/ssh_host_ed25519_key.pub": "public",
            "etc/ssh/sshd_config": "config",
        }
        self.on_disk: dict[str, str] = {}

    def tree(self) -> str:
        root = next(Path(word) for word in self.ran[-1].split() if word.endswith("/tree"))
        for name, text in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return ""

    def disk(self) -> str:
        root = Path(self.ran[-1].split()[-2])
        self.on_disk = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}
        return ""


@pytest.fixture
def machine(monkeypatch):
    runner = Machine()
    monkeypatch.setattr(debian_root, "HostRunner", lambda: runner)
    return runner


@pytest.fixture
def image(machine, monkeypatch, capsys, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "fstab").touch()
    defaults = {
        "packages": ["udev", "cxl"],
        "files": str(tmp_path / "files"),
        "cache_dir": str(tmp_path / "cache"),
        "disk_size": "8M",
    }
    return lambda check=False, **args: run_module(cxl_guest_image, monkeypatch, capsys, check=check, **{**defaults, **args})


def test_an_image_is_built_once(image, machine):
    first = image()
    parts = {part: Path(path) for part, path in first["image"].items()}
    assert first["changed"] is True and set(parts) == {"disk", "kernel", "initrd"}
    assert parts["kernel"].read_text() == "kernel" and parts["initrd"].read_text() == "initrd", "the newest of each"
    assert parts["disk"].stat().st_size == 8 << 20
    assert sorted(path.name for path in parts["disk"].parent.iterdir()) == ["disk.raw", "initrd.img", "vmlinuz"]
    second = image()
    assert second["changed"] is False and second["image"] == first["image"] and len(machine.ran) == 2


def test_the_image_has_no_identity(image, machine):
    image()
    assert machine.on_disk["etc/machine-id"] == "" and machine.on_disk["etc/ssh/sshd_config"] == "config"
    assert not [name for name in machine.on_disk if "ssh_host" in name]


def test_the_emulator_can_read_it(image):
    for path in map(Path, image()["image"].values()):
        assert path.stat().st_mode & 0o777 == 0o644 and path.parent.stat().st_mode & 0o777 == 0o755


def test_check_mode_builds_nothing(image, machine, tmp_path):
    planned = image(check=True)
    assert planned["changed"] is True and planned["image"] == image()["image"]
    assert image(check=True)["changed"] is False
    machine.ran.clear()
    image(check=True, disk_size="16M")
    assert machine.ran == [] and len(list((tmp_path / "cache").glob("guest-*"))) == 1


@pytest.mark.parametrize("args", [{"suite": "forky"}, {"mirror": "http://x/"}, {"packages": ["udev"]}, {"disk_size": "16M"}])
def test_every_option_makes_another_image(image, args):
    assert image()["image"]["disk"] != image(**args)["image"]["disk"]


def test_files_make_another_image(image, tmp_path):
    before = image()["image"]
    (tmp_path / "files" / "fstab").write_text("/dev/vda")
    assert image()["image"] != before


@pytest.mark.parametrize(("part", "fix"), [("vmlinuz", "boot/vmlinuz-*"), ("initrd.img", "boot/initrd.img-*")])
def test_a_tree_without_a_kernel(image, machine, tmp_path, part, fix):
    machine.files = {name: text for name, text in machine.files.items() if part not in name}
    result = image()
    assert result["failed"] is True
    assert result["msg"] == f"guest image: has no {fix}; add linux-image-amd64 and initramfs-tools to cxl_guest_image_packages"
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_mirror_that_is_away(image, machine):
    machine.answers["mmdebstrap"] = Result(25, "", "E: Unable to locate package cxl\n")
    result = image()
    assert (
        result["failed"] is True and "E: Unable to locate package cxl; check the mirror" in result["msg"] and result["rc"] == 25
    )
    machine.answers["mmdebstrap"] = machine.tree
    assert image()["changed"] is True


def test_a_disk_that_is_too_small(image, machine):
    machine.answers["mke2fs"] = Result(1, "", "mke2fs: Could not allocate block in ext2 filesystem\n")
    result = image()
    assert result["failed"] is True and "Could not allocate block in ext2 filesystem; check the free space" in result["msg"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"disk_size": "much"}, 'disk_size: \'much\' is no size; write it as "512M" or "4G"'),
        ({"files": "/no/such/folder"}, "files /no/such/folder: is no folder; "),
    ],
)
def test_bad_options_are_named_before_anything_starts(image, machine, tmp_path, args, message):
    result = image(**args)
    assert result["failed"] is True and result["msg"].startswith(message)
    assert machine.ran == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("packages", ["gdb", {"gdb": 1}, 7, None, [7]])
def test_packages_of_a_host_that_are_no_list(image, machine, packages):
    """A text would be a package for each of its letters."""
    result = image(host_packages={"a": packages})
    assert result["msg"].startswith("extra_packages of a: ") and "write a list of their names" in result["msg"]
    assert machine.ran == []


def test_hosts_with_packages_of_their_own_get_images_and_equal_ones_share_them(image):
    result = image(host_packages={"a": ["gdb"], "b": ["gdb", "udev"], "c": ["jq"]})
    images = result["host_images"]
    assert result["changed"] is True and images["a"] == images["b"]
    assert len({one["disk"] for one in (result["image"], images["a"], images["c"])}) == 3
    assert all(Path(one[part]).exists() for one in images.values() for part in ("disk", "kernel", "initrd"))
    assert image(host_packages={"a": ["gdb"]})["changed"] is False


@pytest.fixture
def cloud(tmp_path):
    """A cloud image without partitions: nothing but a root file system."""
    tree = tmp_path / "cloud"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/os-release").write_text("ID=debian\nVERSION_CODENAME=trixie\n")
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, tmp_path / "cloud.raw", "8M"], check=True, capture_output=True)
    return tmp_path / "cloud.raw"


def test_a_cloud_image_is_the_base_and_is_unpacked_once(image, machine, cloud, tmp_path):
    plain = image()
    first = image(cloud_image=str(cloud), host_packages={"a": ["gdb"]})
    build = next(line for line in machine.ran if "--setup-hook=unshare" in line)
    assert "--variant=essential" in build and "'~i~n^linux-image-'" in build
    (root,) = (tmp_path / "cache").glob("cloud-*/root.img")
    assert first["changed"] and str(root) in build and root.read_bytes() == cloud.read_bytes()
    assert len({plain["image"]["disk"], first["image"]["disk"], first["host_images"]["a"]["disk"]}) == 3
    digest = "sha256:" + hashlib.sha256(cloud.read_bytes()).hexdigest()
    cloud.unlink()
    again = image(cloud_image=str(cloud), cloud_checksum=digest)
    assert (again["changed"], again["image"]) == (False, first["image"]), "its checksum is enough to find it"


def test_a_plain_image_stays_the_one_that_it_was(image, machine):
    image()
    assert "--variant=apt" in machine.ran[0] and "hook=unshare" not in machine.ran[0]


def test_check_mode_fetches_no_cloud_image(image, machine, cloud, tmp_path):
    planned = image(check=True, cloud_image=cloud.as_uri())
    assert planned["changed"] and machine.ran == [] and not (tmp_path / "cache").exists()
    assert planned["image"] == image(cloud_image=str(cloud))["image"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"cloud_image": "http://127.0.0.1:9/x"},
            "cxl_guest_image_cloud_image: http://127.0.0.1:9/x comes over a network and has no checksum",
        ),
        (
            {"cloud_image": "/no/such/image"},
            "cxl_guest_image_cloud_image: /no/such/image cannot be read: No such file or directory",
        ),
        ({"cloud_image": "/x", "cloud_checksum": "12"}, "cxl_guest_image_cloud_checksum: '12' is no checksum"),
        ({"cloud_checksum": "12"}, "cxl_guest_image_cloud_checksum: is given without cxl_guest_image_cloud_image"),
        ({"suite": "bookworm"}, "cxl_guest_image_suite: bookworm is too old"),
    ],
)
def test_a_wrong_base_is_named_before_anything_starts(image, machine, tmp_path, args, message):
    for check in (True, False):
        result = image(check=check, **args)
        assert result["failed"] is True and result["msg"].startswith(message)
    assert machine.ran == [] and not (tmp_path / "cache").exists()


def test_a_cloud_image_of_another_suite(image, machine, cloud):
    result = image(cloud_image=str(cloud), suite="forky")
    assert result["failed"] is True and "set cxl_guest_image_suite to trixie" in result["msg"] and machine.ran == []
