# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian cloud image as the base of guests: its root file system, and what has to go from it before a lab can use it.

The image is never booted as it is. Its root file system takes the place of a fresh one, and mmdebstrap adds the lab's files,
packages and kernel to it from outside, as to any other: the image needs no network, no cloud-init and no boot loader for that.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Sequence

from .errors import LabError
from .fetch import Checksum, Source
from .locking import build_once
from .progress import progress
from .runner import HostRunner, Runner, last_line, must, must_json

SUBJECT = "cxl_guest_image_cloud_image"
_TIMEOUT = 900.0
#: Partition types: Linux root (x86-64) of the Discoverable Partitions Specification; Linux data, in a GPT and in an MBR.
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
_LINUX_TYPES = (_ROOT_TYPE, "0FC63DAF-8483-4772-8E79-3D69D8477DE4", "83")
#: What a cloud finds its machines with. Left in, netplan takes the lab's own networks, and the hook asks a boot loader that is
#: not used for a disk that is not there. The image's archives are those of its cloud; mmdebstrap writes the mirror instead. The
#: hardware database makes the initial RAM disk large.
_LEFT_OUT = (
    "etc/apt/mirrors",
    "etc/apt/sources.list.d/*",
    "etc/kernel/postinst.d/zz-update-grub",
    "etc/kernel/postrm.d/zz-update-grub",
    "etc/netplan/*",
    "etc/network/interfaces.d/*",
    "etc/systemd/network/*",
    "usr/lib/udev/hwdb*",
    "var/lib/cloud",
)
#: What mmdebstrap has put into the tree before, and goes by.
_KEPT = "etc/apt/sources.list etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap"
#: $1 is the new tree, $2 the image.
_COPY = f"""
mount -o ro,loop "$2" /mnt
cd "$1"
tar -cf .kept {_KEPT}
cp -a --remove-destination /mnt/. .
rm -rf {" ".join(_LEFT_OUT)}
tar -xf .kept
rm .kept
mkdir -p etc/cloud
touch etc/cloud/cloud-init.disabled
"""


@dataclass(frozen=True)
class CloudImage:
    """An image as the user gave it."""

    source: Source

    @classmethod
    def given(cls, where: str | None, checksum: str | None) -> CloudImage | None:
        """What the options say; None where there is no image.

        :raises LabError: for half of it, and for what can be no image or no checksum.
        """
        if not where:
            if checksum:
                raise LabError("cxl_guest_image_cloud_checksum", f"is given without {SUBJECT}", "give both, or none")
            return None
        source = Source(SUBJECT, where, Checksum.parse(checksum, "cxl_guest_image_cloud_checksum") if checksum else None)
        source.check()
        return cls(source)

    @cached_property
    def digest(self) -> str:
        """Sixteen hex digits of its checksum."""
        return hashlib.sha256(self.source.identity().encode()).hexdigest()[:16]

    def root(self, cache: Path, suite: str, runner: Runner | None = None) -> Path:
        """Its root file system, fetched and unpacked once for all images that are made of it.

        :raises LabError: for an image that cannot be had, is damaged, or is not of this Debian suite.
        """
        runner = runner or HostRunner()
        folder = cache / f"cloud-{self.digest}"
        build_once(folder, lambda partial: self._unpack(partial, runner))
        root = folder / "root.img"
        check_release(release_of(root, runner), suite)
        return root

    def _unpack(self, folder: Path, runner: Runner) -> None:
        image, raw, root = folder / "image", folder / "disk.raw", folder / "root.img"
        progress(f"cloud image: {self.source.where}")
        self.source.fetch(image)
        form = image_form(image, runner)
        fix = "check the free space of the cache folder"
        must(runner, ["qemu-img", "convert", "-f", form, "-O", "raw", str(image), str(raw)], SUBJECT, fix, timeout=_TIMEOUT)
        image.unlink()
        start, size = root_partition(raw, runner)
        cut_out(raw, root, start, size, runner)
        raw.unlink()
        repair(root, runner)


def image_form(image: Path, runner: Runner) -> str:
    """Its format, "qcow2" or "raw".

    :raises LabError: for another one, and for an overlay, whose other half no checksum has seen.
    """
    told = must_json(runner, ["qemu-img", "info", "--output=json", str(image)], SUBJECT)
    if told["format"] not in ("qcow2", "raw"):
        raise LabError(SUBJECT, f"is in the format {told['format']}", "convert it to qcow2 or raw (qemu-img convert)")
    outside = told.get("backing-filename") or told.get("format-specific", {}).get("data", {}).get("data-file")
    if outside:
        raise LabError(SUBJECT, f"is only a part: the rest is in {outside}", "make it whole (qemu-img convert)")
    return str(told["format"])


def root_partition(disk: Path, runner: Runner) -> tuple[int, int]:
    """First byte and length of the root file system; the whole disk where there are no partitions.

    :raises LabError: for partitions none of which is Linux's.
    """
    done = runner.run(["sfdisk", "--json", str(disk)])
    if done.rc != 0:
        return 0, disk.stat().st_size
    table: dict[str, Any] = json.loads(done.stdout)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    linux = [part for part in table.get("partitions", []) if str(part["type"]).upper() in _LINUX_TYPES]
    if not linux:
        raise LabError(
            SUBJECT, "has partitions, and none of Linux that is whole", "take an image of Debian, such as genericcloud"
        )
    root = max(linux, key=lambda part: (str(part["type"]).upper() == _ROOT_TYPE, part["size"]))
    return int(root["start"]) * sector, int(root["size"]) * sector


def cut_out(disk: Path, target: Path, start: int, size: int, runner: Runner) -> None:
    """Copies a part of a raw disk; holes stay holes.

    :raises LabError: for a disk that ends before.
    """
    name = str(disk).replace(",", ",,")
    part = f"driver=raw,offset={start},size={size},file.driver=file,file.filename={name}"
    fix = "get the file anew, or check the free space of the cache folder"
    must(runner, ["qemu-img", "convert", "--image-opts", part, "-O", "raw", str(target)], SUBJECT, fix, timeout=_TIMEOUT)


def repair(root: Path, runner: Runner) -> None:
    """Brings a file system to a clean state that was copied while it was in use.

    :raises LabError: for what is no ext2, ext3 or ext4, or is damaged.
    """
    done = runner.run(["e2fsck", "-p", str(root)], timeout=_TIMEOUT)
    # e2fsck(8): 1 is "errors corrected"; a reboot (2) would matter to a root file system that is mounted.
    if done.rc > 2:
        problem = f"its root file system cannot be read: {last_line(done.stdout) or last_line(done.stderr)}"
        step = "take an image with ext4, as Debian's are"
        raise LabError(SUBJECT, problem, step, cmd=["e2fsck"], rc=done.rc, stderr=done.stdout + done.stderr)


def release_of(root: Path, runner: Runner) -> dict[str, str]:
    """os-release(5) of an ext4 image; empty without one."""
    # debugfs ends with 0 whatever happens.
    text = runner.run(["debugfs", "-R", "cat /usr/lib/os-release", str(root)]).stdout
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: "".join(shlex.split(value)[:1]) for key, _, value in pairs}


def check_release(release: dict[str, str], suite: str) -> None:
    """
    :raises LabError: for another system than Debian, and another suite of it: its packages would not fit.
    """
    if release.get("ID") != "debian":
        step = "take an image of Debian, such as genericcloud"
        raise LabError(SUBJECT, f"has {release.get('PRETTY_NAME', 'no system')} in it, no Debian", step)
    if release.get("VERSION_CODENAME") != suite:
        name = release.get("VERSION_CODENAME", "unknown")
        step = f"set cxl_guest_image_suite to {name}, or take another image"
        raise LabError(SUBJECT, f"has Debian {name} in it, and the guests are to be {suite}", step)


def hooks(root: Path) -> Sequence[str]:
    """Options of mmdebstrap (variant "essential") that put the root file system into the tree, without its own kernels."""
    # A mount namespace of its own: whatever happens, no mount and no loop device stays behind.
    copy = shlex.join(["unshare", "--mount", "--propagation", "private", "--", "sh", "-euc", _COPY, "sh"])
    return (
        f'--setup-hook={copy} "$1" {shlex.quote(str(root))}',
        # There is one kernel in a guest image: the lab's, which comes with the other packages, or that of the user.
        """--essential-hook=chroot "$1" apt-get purge --yes '~i~n^linux-image-'""",
    )
