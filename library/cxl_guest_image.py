#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
from __future__ import annotations

DOCUMENTATION = r"""
module: cxl_guest_image
short_description: A Debian guest image for the hosts of a lab
description:
  - Builds a Debian root file system with mmdebstrap and keeps its kernel, its initial RAM disk and a raw disk image in the cache.
  - The folder carries the hash of everything that goes in, so that an image is built once and shared by all labs as a backing
    file.
  - The image holds no key and no password. Each host gets its identity at boot.
options:
  suite:
    description: Debian release.
    type: str
    default: trixie
  mirror:
    description: Debian archive.
    type: str
    default: http://deb.debian.org/debian
  packages:
    description: Packages to install; what they need comes along.
    type: list
    elements: str
    required: true
  host_packages:
    description: Packages that single hosts have on top, as lists by the names of the hosts. Equal lists share an image.
    type: dict
    default: {}
  files:
    description: Folder that is laid over the root file system before its packages are configured.
    type: path
    required: true
  kernel_debs:
    description: Debian packages of a kernel of your own, which takes the place of Debian's.
    type: list
    elements: path
    default: []
  kernel_image:
    description: A kernel of your own (bzImage); it needs O(kernel_modules).
    type: path
  kernel_modules:
    description: The folder of its modules, as C(make modules_install) leaves it, such as C(lib/modules/6.18.0).
    type: path
  cloud_image:
    description:
      - A Debian cloud image (qcow2 or raw, such as C(debian-13-genericcloud-amd64.qcow2)) whose root file system is taken instead
        of a fresh one; an absolute path, or an address that begins with C(file:), C(http:) or C(https:).
      - The packages and files of the lab are added to it from outside. Its kernels, boot loader and cloud-init are not used.
    type: str
  cloud_checksum:
    description:
      - C(sha256:) or C(sha512:) and the hexadecimal digits that the file of O(cloud_image) has to have.
      - Needed for what comes over a network.
    type: str
  disk_size:
    description: Size of the disk; it is sparse.
    type: str
    default: 4G
  cache_dir:
    description: Folder of the caches; QEMU's user must be able to read it.
    type: path
    default: /var/cache/cxl-lab
attributes:
  check_mode:
    support: full
    description: Tells where the image will be and builds nothing.
  diff_mode:
    support: none
    description: The result is a folder that exists or not.
requirements:
  - mmdebstrap
  - e2fsprogs
  - qemu-img and sfdisk, for O(cloud_image)
author:
  - cxl.lab contributors
"""

EXAMPLES = r"""
- name: A guest with the CXL tools
  cxl_guest_image:
    packages: [systemd-sysv, udev, openssh-server, python3, cxl, ndctl, linux-image-amd64]
    files: files/guest

- name: A guest with a kernel from a source tree
  cxl_guest_image:
    packages: [systemd-sysv, udev, openssh-server, python3, cxl, ndctl, initramfs-tools]
    files: files/guest
    kernel_image: /src/linux/arch/x86/boot/bzImage
    kernel_modules: /src/linux/staged/lib/modules/6.18.0

- name: A guest on top of Debian's cloud image
  cxl_guest_image:
    packages: [systemd-sysv, udev, openssh-server, python3, cxl, ndctl, linux-image-amd64, initramfs-tools]
    files: files/guest
    cloud_image: /srv/images/debian-13-genericcloud-amd64.qcow2
"""

RETURN = r"""
image:
  description: The parts that a domain needs.
  returned: success
  type: dict
  sample: {disk: /var/cache/cxl-lab/guest-0123456789abcdef/disk.raw, kernel: /var/cache/cxl-lab/guest-0123456789abcdef/vmlinuz,
           initrd: /var/cache/cxl-lab/guest-0123456789abcdef/initrd.img}
host_images:
  description: The same for each host in O(host_packages).
  returned: success
  type: dict
  sample: {}
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cxl_lab.cloud_image import CloudImage
from ..module_utils.cxl_lab.cloud_image import hooks as cloud_hooks
from ..module_utils.cxl_lab.debian_root import Recipe, check_suite, make_disk, make_tree
from ..module_utils.cxl_lab.errors import LabError, shown
from ..module_utils.cxl_lab.locking import build_once
from ..module_utils.cxl_lab.own_kernel import OwnKernel
from ..module_utils.cxl_lab.sizes import parse_size
from ..module_utils.lab_module import run_module

PARTS = {"disk": "disk.raw", "kernel": "vmlinuz", "initrd": "initrd.img"}


def build_image(recipe: Recipe, folder: Path, disk_size: int, hooks: Sequence[str]) -> None:
    """Fills ``folder`` with the three parts; the tree in between is gone afterwards."""
    tree = folder / "tree"
    make_tree(recipe, tree, hooks=hooks)
    for secret in tree.glob("etc/ssh/ssh_host_*"):
        secret.unlink()
    (tree / "etc/machine-id").write_text("")
    for part, pattern in (("kernel", "boot/vmlinuz-*"), ("initrd", "boot/initrd.img-*")):
        found = sorted(tree.glob(pattern))
        if not found:
            raise LabError(
                "guest image", f"has no {pattern}", "add linux-image-amd64 and initramfs-tools to cxl_guest_image_packages"
            )
        shutil.move(str(found[-1]), folder / PARTS[part])
    make_disk(tree, folder / PARTS["disk"], disk_size)
    shutil.rmtree(tree)
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755 if path.is_dir() else 0o644)


def work(module: AnsibleModule) -> dict[str, Any]:
    params = module.params
    disk_size = parse_size(params["disk_size"], "disk_size")
    if not Path(params["files"]).is_dir():
        raise LabError(f"files {params['files']}", "is no folder", "give the folder that is laid over the root file system")
    check_suite(params["suite"])
    own_kernel(params).check()
    for host, extra in params["host_packages"].items():
        if not isinstance(extra, list) or not all(isinstance(name, str) for name in extra):
            raise LabError(f"extra_packages of {host}", f"{shown(extra)} is no list of packages", "write a list of their names")
    cloud = CloudImage.given(params["cloud_image"], params["cloud_checksum"])
    changed, image = make_image(module, params["packages"], disk_size, cloud)
    hosts = {}
    for host, extra in sorted(params["host_packages"].items()):
        built, hosts[host] = make_image(module, sorted({*params["packages"], *extra}), disk_size, cloud)
        changed |= built
    return {"changed": changed, "image": image, "host_images": hosts}


def own_kernel(params: Mapping[str, Any]) -> OwnKernel:
    """The kernel that the user brings, if there is one."""
    image, modules = (Path(params[key]) if params[key] else None for key in ("kernel_image", "kernel_modules"))
    return OwnKernel(tuple(Path(path) for path in params["kernel_debs"]), image, modules)


def make_image(
    module: AnsibleModule, packages: list[str], disk_size: int, cloud: CloudImage | None
) -> tuple[bool, dict[str, str]]:
    """Builds the image with these packages if it is missing; whether it was, and its parts."""
    params, cache = module.params, Path(module.params["cache_dir"])
    kernel = own_kernel(params)
    base = {"cloud_image": cloud.digest} if cloud else {}
    settings = {"disk_size": disk_size, **({"kernel": kernel.digest()} if kernel else {}), **base}
    recipe = Recipe(
        kind="guest",
        suite=params["suite"],
        mirror=params["mirror"],
        packages=kernel.packages(packages),
        variant="essential" if cloud else "apt",
        files=params["files"],
        settings=settings,
    )
    folder = recipe.folder(cache)
    changed = not folder.exists()
    if changed and not module.check_mode:
        hooks = [*(cloud_hooks(cloud.root(cache, recipe.suite)) if cloud else ()), *kernel.hooks()]
        changed = build_once(folder, lambda partial: build_image(recipe, partial, disk_size, hooks))
    return changed, {part: str(folder / name) for part, name in PARTS.items()}


def main() -> None:
    run_module(
        work,
        argument_spec={
            "suite": {"type": "str", "default": "trixie"},
            "mirror": {"type": "str", "default": "http://deb.debian.org/debian"},
            "packages": {"type": "list", "elements": "str", "required": True},
            "host_packages": {"type": "dict", "default": {}},
            "files": {"type": "path", "required": True},
            "kernel_debs": {"type": "list", "elements": "path", "default": []},
            "kernel_image": {"type": "path"},
            "kernel_modules": {"type": "path"},
            "cloud_image": {"type": "str"},
            "cloud_checksum": {"type": "str"},
            "disk_size": {"type": "str", "default": "4G"},
            "cache_dir": {"type": "path", "default": "/var/cache/cxl-lab"},
        },
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
