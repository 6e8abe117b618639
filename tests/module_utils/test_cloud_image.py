# SPDX-License-Identifier: GPL-3.0-or-later
"""Cloud images, tiny ones, but real: ext4 in a partition table in a qcow2, taken apart by the real tools."""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess

import pytest
from ansible.module_utils.cxl_lab.cloud_image import CloudImage, hooks
from ansible.module_utils.cxl_lab.debian_root import Recipe, check_suite, mmdebstrap_command
from ansible.module_utils.cxl_lab.errors import LabError

TRIXIE = 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n# a comment\nVERSION_CODENAME=trixie\n'
#: As Debian's cloud images are laid out: boot loaders have the first sectors, and the root partition has the first number.
LAYOUT = "label: gpt\nfirst-lba: 34\n15: start=40, size=1000, type=uefi\n1: start=2048, size=16384, type={}\n"
MBR = "label: dos\nstart=2048, size=16384, type=83\n"


def run(*command, **options):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, **options)


def root_file_system(folder, release=TRIXIE):
    """8 MiB of ext4 with an os-release, where Debian has it."""
    tree = folder / "tree"
    (tree / "usr/lib").mkdir(parents=True, exist_ok=True)
    if release:
        (tree / "usr/lib/os-release").write_text(release)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, folder / "root", "8M")
    return (folder / "root").read_bytes()


def disk_with(folder, content, layout=LAYOUT, kind="linux"):
    """A raw disk with the content at the place of the root partition."""
    disk = folder / "raw"
    with disk.open("wb") as file:
        file.truncate(12 << 20)
    run("sfdisk", "-q", disk, input=layout.format(kind))
    with disk.open("r+b") as file:
        file.seek(2048 * 512)
        file.write(content)
    return disk


def as_qcow2(disk):
    run("qemu-img", "convert", "-O", "qcow2", disk, disk.with_suffix(".qcow2"))
    return disk.with_suffix(".qcow2")


@pytest.fixture
def content(tmp_path):
    return root_file_system(tmp_path)


def given(path):
    return CloudImage.given(str(path), "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("kind", ["linux", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"])
def test_the_root_file_system_of_a_qcow2_is_unpacked_once(tmp_path, content, kind):
    image = given(as_qcow2(disk_with(tmp_path, content, kind=kind)))
    root = image.root(tmp_path / "cache", "trixie")
    assert root.read_bytes() == content and [path.name for path in root.parent.iterdir()] == ["root.img"]
    (tmp_path / "raw.qcow2").unlink()
    assert image.root(tmp_path / "cache", "trixie") == root, "it is in the cache, so that nobody asks for it again"


def test_a_raw_disk_an_mbr_and_a_disk_without_partitions(tmp_path, content):
    for number, layout in enumerate((LAYOUT, MBR, None)):
        disk = disk_with(tmp_path, content, layout) if layout else tmp_path / "root"
        assert given(disk).root(tmp_path / f"cache{number}", "trixie").read_bytes() == content


def test_among_several_partitions_it_is_the_one_that_says_so_or_the_largest(tmp_path, content):
    two = "label: gpt\nfirst-lba: 34\nstart=2048, size=16384, type={}\nstart=18432, size=5000, type=linux\n"
    assert given(disk_with(tmp_path, content, two)).root(tmp_path / "a", "trixie").read_bytes() == content
    large = "label: gpt\nfirst-lba: 34\nstart=2048, size=2048, type={}\nstart=4096, size=18000, type=linux\n"
    small = root_file_system(tmp_path / "small")[: 1 << 20]
    image = given(disk_with(tmp_path, small, large, "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"))
    with pytest.raises(LabError, match="its root file system cannot be read"):
        image.root(tmp_path / "b", "trixie")


def test_an_image_is_known_by_its_content(tmp_path, content):
    disk = disk_with(tmp_path, content)
    first = CloudImage.given(str(disk), None).digest
    assert first == given(disk).digest == CloudImage.given(disk.as_uri(), None).digest and len(first) == 16
    with disk.open("r+b") as file:
        file.write(b"x")
    assert CloudImage.given(str(disk), None).digest != first


def test_another_checksum_leaves_nothing_in_the_cache(tmp_path, content):
    image = CloudImage.given(str(disk_with(tmp_path, content)), "sha256:" + "0" * 64)
    with pytest.raises(LabError, match=r"cxl_guest_image_cloud_image: .* has another checksum than it should"):
        image.root(tmp_path / "cache", "trixie")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_an_overlay_is_only_a_part(tmp_path, content):
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk_with(tmp_path, content), tmp_path / "overlay")
    with pytest.raises(LabError, match=r"is only a part: the rest is in .*/raw; make it whole \(qemu-img convert\)"):
        given(tmp_path / "overlay").root(tmp_path / "cache", "trixie")
    outside = f"data_file={tmp_path / 'outside'}"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", outside, tmp_path / "split", "1M")
    with pytest.raises(LabError, match=r"is only a part: the rest is in .*outside"):
        given(tmp_path / "split").root(tmp_path / "cache", "trixie")


def test_another_format(tmp_path, content):
    run("qemu-img", "convert", "-O", "vmdk", disk_with(tmp_path, content), tmp_path / "vmdk")
    with pytest.raises(LabError, match="is in the format vmdk; convert it to qcow2 or raw"):
        given(tmp_path / "vmdk").root(tmp_path / "cache", "trixie")


@pytest.mark.parametrize(
    ("release", "words"),
    [
        (
            TRIXIE.replace("trixie", "forky"),
            "has Debian forky in it, and the guests are to be trixie; set cxl_guest_image_suite to forky",
        ),
        ('ID=fedora\nPRETTY_NAME="Fedora Linux 43"\n', "has Fedora Linux 43 in it, no Debian; take an image of Debian"),
        ("", "has no system in it, no Debian"),
    ],
)
def test_another_system(tmp_path, release, words):
    image = given(disk_with(tmp_path, root_file_system(tmp_path, release)))
    for _ in range(2):  # a cache that has it already does not let it pass
        with pytest.raises(LabError, match=words):
            image.root(tmp_path / "cache", "trixie")


def test_what_is_no_system(tmp_path, content):
    cases = {
        "none of Linux that is whole": disk_with(tmp_path, content, kind="uefi"),
        "its root file system cannot be read": tmp_path / "noise",
        "has to be smaller or equal to": tmp_path / "short",
    }
    (tmp_path / "short").write_bytes(disk_with(tmp_path / "tree", content, MBR).read_bytes()[: 4 << 20])
    (tmp_path / "noise").write_bytes(b"\x5a" * (1 << 20))
    for number, (words, path) in enumerate(cases.items()):
        with pytest.raises(LabError, match=words) as caught:
            given(path).root(tmp_path / f"cache{number}", "trixie")
        assert caught.value.next_step


def test_a_file_system_that_was_copied_while_in_use_is_made_whole(tmp_path, content):
    disk = disk_with(tmp_path, content)
    run("debugfs", "-w", "-R", "ssv state 0", tmp_path / "root")
    dirty = disk_with(tmp_path, (tmp_path / "root").read_bytes())
    root = given(dirty).root(tmp_path / "cache", "trixie")
    assert "Filesystem state:         clean" in run("dumpe2fs", "-h", root).stdout
    assert disk.exists()


@pytest.mark.parametrize(
    ("where", "checksum", "words"),
    [
        ("disk.qcow2", None, "cxl_guest_image_cloud_image: 'disk.qcow2' is neither a path nor an address"),
        ("https://example.org/x", None, "has no checksum"),
        ("/x", "md5:1", "cxl_guest_image_cloud_checksum: 'md5:1' is no checksum"),
        (None, "sha256:1", "cxl_guest_image_cloud_checksum: is given without cxl_guest_image_cloud_image"),
    ],
)
def test_options_that_are_refused_at_once(where, checksum, words):
    with pytest.raises(LabError, match=words):
        CloudImage.given(where, checksum)


def test_no_image_is_none():
    assert CloudImage.given(None, None) is None is CloudImage.given("", "")


def test_the_hooks_are_read_by_a_shell_as_meant(tmp_path):
    root = tmp_path / "it's; rm -rf x" / "root.img"
    setup, essential = (hook.partition("=") for hook in hooks(root))
    words = shlex.split(setup[2])
    assert setup[0] == "--setup-hook" and words[:2] == ["unshare", "--mount"] and words[-2:] == ["$1", str(root)]
    run("sh", "-n", "-c", words[words.index("-euc") + 1])
    assert essential[0] == "--essential-hook" and shlex.split(essential[2])[-1] == "~i~n^linux-image-"
    recipe = Recipe(kind="guest", suite="trixie", mirror="m", packages=["cxl"], variant="essential")
    assert mmdebstrap_command(recipe, tmp_path / "tree", hooks(root)).index("trixie") > 0


@pytest.mark.skipif(
    os.geteuid() != 0 or subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode != 0,
    reason="mounts a loop device",
)
def test_the_tree_is_that_of_the_image_without_what_is_of_its_cloud(tmp_path):
    """The first hook as mmdebstrap runs it: in the tree is what mmdebstrap has put there before."""
    image, tree = tmp_path / "tree", tmp_path / "new tree"
    ours = ("etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap")
    gone = ("etc/netplan/90-default.yaml", "etc/apt/sources.list.d/debian.sources", "etc/kernel/postinst.d/zz-update-grub")
    kept = ("etc/hosts", "etc/kernel/postinst.d/initramfs-tools", "usr/bin/sudo", "var/lib/dpkg/status")
    for root, names in ((image, (*ours, *gone, *kept)), (tree, (*ours, "etc/hosts", "var/lib/dpkg/status"))):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(root.name)
    (image / "usr/bin/sudo").chmod(0o4755)
    (image / "etc/resolv.conf").symlink_to("../run/stub")
    (tree / "etc/resolv.conf").write_text("nameserver 192.0.2.1")
    root_file_system(tmp_path)
    run("sh", "-c", hooks(tmp_path / "root")[0].partition("=")[2], "exec", tree)
    assert {name: (tree / name).read_text() for name in ours} == dict.fromkeys(ours, "new tree")
    assert {name: (tree / name).read_text() for name in kept} == dict.fromkeys(kept, "tree")
    assert not [name for name in gone if (tree / name).exists()] and (tree / "etc/cloud/cloud-init.disabled").exists()
    assert (tree / "usr/bin/sudo").stat().st_mode & 0o7777 == 0o4755 and (tree / "etc/resolv.conf").is_symlink()
    assert not (tree / ".kept").exists() and str(tmp_path) not in run("losetup", "--list").stdout


@pytest.mark.parametrize("suite", ["bookworm", "oldstable"])
def test_a_debian_that_nobody_could_log_in_to(suite):
    with pytest.raises(LabError, match=f"cxl_guest_image_suite: {suite} is too old: .*; use trixie"):
        check_suite(suite)


def test_later_ones_are_taken():
    for suite in ("trixie", "forky", "sid", "stable"):
        check_suite(suite)
