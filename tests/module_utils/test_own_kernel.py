# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that the user brings: what is refused, what goes into the tree, and what makes another image."""

from __future__ import annotations

import shlex

import pytest
from ansible.module_utils.cxl_lab.debian_root import Recipe, mmdebstrap_command
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.own_kernel import OwnKernel


@pytest.fixture
def built(tmp_path):
    """A bzImage with its modules, and a package; the folder has a name that a shell would take apart."""
    folder = tmp_path / "my kernel; rm -rf x"
    modules = folder / "lib/modules/6.18.0-rc1+"
    (modules / "kernel").mkdir(parents=True)
    (modules / "kernel/cxl.ko").write_bytes(b"module")
    (folder / "bzImage").write_bytes(b"kernel")
    (folder / "linux-image-6.18.deb").write_bytes(b"package")
    return folder


def own(built):
    return OwnKernel(image=built / "bzImage", modules=built / "lib/modules/6.18.0-rc1+")


def test_nothing_is_nothing():
    none = OwnKernel()
    none.check()
    assert not none and none.hooks() == [] and none.digest() == ""
    assert none.packages(["linux-image-amd64", "cxl"]) == ["linux-image-amd64", "cxl"]


def test_debians_kernel_goes_for_another_one(built):
    for kernel in (own(built), OwnKernel(debs=(built / "linux-image-6.18.deb",))):
        kernel.check()
        assert kernel.packages(["linux-image-amd64", "linux-image-cloud-amd64", "cxl"]) == ["cxl"]


def test_every_hook_is_one_that_a_shell_reads_as_meant(built):
    words = [shlex.split(hook.partition("=")[2]) for hook in own(built).hooks()]
    assert ["sync-in", str(built / "lib/modules/6.18.0-rc1+"), "/usr/lib/modules/6.18.0-rc1+"] in words
    assert ["copy-in", str(built / "bzImage"), "/var/tmp"] in words
    assert words[-1] == ["chroot", "$1", "update-initramfs", "-c", "-k", "6.18.0-rc1+"]
    words = [shlex.split(hook.partition("=")[2]) for hook in OwnKernel(debs=(built / "linux-image-6.18.deb",)).hooks()]
    assert words[0] == ["copy-in", str(built / "linux-image-6.18.deb"), "/var/tmp"]
    assert words[1][-1] == "/var/tmp/linux-image-6.18.deb" and "apt-get" in words[1]


def test_another_content_is_another_image_and_another_place_is_not(built, tmp_path):
    first = own(built).digest()
    moved = built.rename(tmp_path / "elsewhere")
    assert own(moved).digest() == first
    (moved / "lib/modules/6.18.0-rc1+/kernel/cxl.ko").write_bytes(b"Module")
    assert own(moved).digest() != first
    recipe = {"kind": "guest", "suite": "trixie", "mirror": "m", "packages": ["cxl"], "variant": "apt"}
    hooks = own(moved).hooks()
    command = mmdebstrap_command(Recipe(**recipe), tmp_path / "tree", hooks)
    assert command.index(hooks[-1]) < command.index("trixie")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"debs": ("missing.deb",)}, "is no file"),
        ({"debs": ("bzImage",)}, r"is no \.deb file; give a bzImage as kernel_image"),
        ({"image": "bzImage"}, "without its modules"),
        ({"modules": "lib/modules/6.18.0-rc1+"}, "or modules without a kernel"),
        ({"image": "bzImage", "modules": "lib/modules"}, "no folder of the modules of one version"),
        ({"image": "bzImage", "modules": "bzImage"}, "no folder of the modules of one version"),
        (
            {"debs": ("linux-image-6.18.deb",), "image": "bzImage", "modules": "lib/modules/6.18.0-rc1+"},
            "as packages and as an image",
        ),
    ],
)
def test_half_a_kernel(built, given, words):
    paths = {key: tuple(built / one for one in value) if key == "debs" else built / value for key, value in given.items()}
    with pytest.raises(LabError, match=words) as caught:
        OwnKernel(**paths).check()
    assert caught.value.next_step
