# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes, their hashes, and what a failed build says."""

from __future__ import annotations

import os
import shlex
import shutil
import string
import subprocess
from dataclasses import fields, replace

import pytest
from ansible.module_utils.cxl_lab.debian_root import Recipe, make_disk, make_tree, mmdebstrap_command
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import Result
from fakes import FakeRunner

RECIPE = Recipe(kind="guest", suite="trixie", mirror="http://deb.debian.org/debian", packages=("udev", "cxl"), variant="apt")
OTHER = {
    "kind": "qemu",
    "suite": "forky",
    "mirror": "http://example.org/debian",
    "packages": ("udev",),
    "variant": "extract",
    "extra_suites": ("trixie-backports",),
    "settings": {"disk_size": 1},
}


@pytest.fixture
def files(tmp_path):
    """A folder that is laid over a tree."""
    folder = tmp_path / "files"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "fstab").write_text("/dev/vda / ext4\n")
    (folder / "etc" / "fstab").chmod(0o644)
    (folder / "etc" / "link").symlink_to("fstab")
    return folder


@pytest.mark.parametrize("field", OTHER)
def test_the_hash_changes_with_every_field(field):
    assert replace(RECIPE, **{field: OTHER[field]}).digest() != RECIPE.digest()


def test_no_field_is_missing_above():
    assert {field.name for field in fields(Recipe)} == {*OTHER, "files"}


def test_the_hash_is_that_of_the_content(files, tmp_path):
    recipe = replace(RECIPE, files=str(files))
    shutil.copytree(files, tmp_path / "copy", symlinks=True)
    assert replace(RECIPE, files=str(tmp_path / "copy")).digest() == recipe.digest() != RECIPE.digest()
    assert replace(recipe, packages=list(recipe.packages)).digest() == recipe.digest()
    assert len(recipe.digest()) == 16 and set(recipe.digest()) <= set(string.hexdigits.lower())


@pytest.mark.parametrize(
    "change",
    [
        lambda etc: (etc / "fstab").write_text("/dev/vda / ext3\n"),
        lambda etc: (etc / "fstab").chmod(0o600),
        lambda etc: (etc / "fstab").rename(etc / "fstab2"),
        lambda etc: (etc / "new").touch(),
        lambda etc: (etc / "folder").mkdir(),
        lambda etc: etc.chmod(0o700),
        lambda etc: ((etc / "link").unlink(), (etc / "link").symlink_to("elsewhere")),
        lambda etc: ((etc / "link").unlink(), (etc / "link").write_text("fstab")),
        lambda etc: (etc / "fstab").unlink(),
    ],
    ids=[
        "content",
        "mode",
        "name",
        "new file",
        "new folder",
        "mode of a folder",
        "target of a link",
        "file for a link",
        "removal",
    ],
)
def test_the_hash_changes_with_the_files(files, change):
    recipe = replace(RECIPE, files=str(files))
    before = recipe.digest()
    (files / "etc").chmod(0o755)
    before = recipe.digest()
    change(files / "etc")
    assert recipe.digest() != before


def test_names_and_contents_do_not_run_together(tmp_path):
    digests = set()
    for index, contents in enumerate(({"a": "1", "b": ""}, {"a": "", "b": "1"}, {"a": "1b"}, {"a": "1\0b\0", "b": ""})):
        folder = tmp_path / str(index)
        folder.mkdir()
        for name, text in contents.items():
            (folder / name).write_text(text)
        digests.add(replace(RECIPE, files=str(folder)).digest())
    assert len(digests) == 4


def test_a_folder_says_what_it_is(tmp_path):
    assert RECIPE.folder(tmp_path) == tmp_path / f"guest-{RECIPE.digest()}"


def test_the_command(tmp_path):
    command = mmdebstrap_command(RECIPE, tmp_path / "root")
    assert command[0] == "mmdebstrap" and {"--mode=root", "--format=directory", "--variant=apt", "--include=udev,cxl"} <= set(
        command
    )
    assert command[-3:] == ["trixie", str(tmp_path / "root"), "deb http://deb.debian.org/debian trixie main"]
    assert '--aptopt=APT::Install-Recommends "0"' in command
    assert not any("Default-Release" in word or "-hook=" in word for word in command)
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in command and command.index(
        "--dpkgopt=path-exclude=/usr/share/doc/*"
    ) < command.index("--dpkgopt=path-include=/usr/share/doc/*/copyright")


def test_signatures_are_always_checked(tmp_path):
    assert not any("trusted" in word or "nauthenticated" in word for word in mmdebstrap_command(RECIPE, tmp_path))


def test_extra_suites_are_preferred(tmp_path):
    command = mmdebstrap_command(replace(RECIPE, extra_suites=("trixie-backports",)), tmp_path)
    assert '--aptopt=APT::Default-Release "trixie-backports"' in command
    assert command[-2:] == [f"deb {RECIPE.mirror} trixie main", f"deb {RECIPE.mirror} trixie-backports main"]


def test_what_is_only_unpacked_is_left_whole(tmp_path):
    command = mmdebstrap_command(replace(RECIPE, variant="extract"), tmp_path)
    assert not any(word.startswith("--dpkgopt") for word in command)


@pytest.mark.parametrize("name", ["files", "my files", "it's", 'a"b', "$(id)", "a;b"])
def test_any_folder_can_be_laid_over(tmp_path, name):
    """mmdebstrap takes the hook apart like a shell."""
    command = mmdebstrap_command(replace(RECIPE, files=str(tmp_path / name)), tmp_path)
    (hook,) = [word.partition("=")[2] for word in command if word.startswith("--essential-hook=")]
    assert shlex.split(hook) == ["sync-in", str(tmp_path / name), "/"]


#: As mmdebstrap 1.3 wrote them.
UNREACHABLE = """\
I: chroot architecture amd64 is equal to the host's architecture
I: running apt-get update...
Err:1 http://127.0.0.1:9/debian trixie InRelease
  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
Reading package lists...
E: Failed to fetch http://127.0.0.1:9/debian/dists/trixie/InRelease  Could not connect to 127.0.0.1:9 (111: Connection refused)
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
I: main() received signal PIPE: waiting for setup...
E: mmdebstrap failed to run
"""
NO_PACKAGE = """\
I: downloading packages with apt...
Reading package lists...
Building dependency tree...
E: Unable to locate package no-such-package
E: apt download failed: E: apt-get --yes install no-such-package failed
E: mmdebstrap failed to run
"""
# A kernel of trixie-backports in a tree of trixie.
UNMET = """Some packages could not be installed. This may mean that you have
requested an impossible situation or if you are using the unstable
distribution that some required packages have not yet been created

The following packages have unmet dependencies:
 linux-image-7.3.4+deb13-amd64 : PreDepends: linux-base (>= 4.17~) but 4.12.1 is to be installed
E: Unable to correct problems, you have held broken packages.
"""


def test_a_package_that_needs_others_is_told_with_what_it_needs(tmp_path):
    with pytest.raises(LabError, match=r"linux-image-7.* linux-base \(>= 4.17~\) but 4.12.1 .*; give the packages that"):
        make_tree(RECIPE, tmp_path / "root", FakeRunner({"mmdebstrap": Result(25, "", UNMET)}))


@pytest.mark.parametrize(
    ("stderr", "cause"),
    [
        (UNREACHABLE, "E: Failed to fetch http://127.0.0.1:9/debian/dists/trixie/InRelease  Could not connect to 127.0.0.1:9"),
        (NO_PACKAGE, "E: Unable to locate package no-such-package"),
        ("I: starting\nkilled by the kernel\n", "mmdebstrap ended with exit code 25"),
        ("E: mmdebstrap failed to run\n", "mmdebstrap ended with exit code 25"),
        ("", "mmdebstrap ended with exit code 25"),
    ],
    ids=["mirror", "package", "other words", "no cause", "no words"],
)
def test_a_failed_build_says_what_apt_said(tmp_path, stderr, cause):
    runner = FakeRunner({"mmdebstrap": Result(25, "", stderr)})
    with pytest.raises(LabError) as caught:
        make_tree(RECIPE, tmp_path / "root", runner)
    message = str(caught.value)
    assert message.startswith(f"guest tree of trixie from http://deb.debian.org/debian: {cause}")
    assert message.endswith("; check the mirror's address and the network, then run again")
    assert (caught.value.rc, caught.value.cmd) == (25, mmdebstrap_command(RECIPE, tmp_path / "root"))
    assert caught.value.stderr == stderr.strip()


def test_a_good_build_is_one_command(tmp_path, progress_folder):
    runner = FakeRunner({"mmdebstrap": ""})
    make_tree(RECIPE, tmp_path / "root", runner)
    assert len(runner.ran) == 1
    assert (progress_folder / str(os.getpid())).read_text() == "mmdebstrap: trixie, 2 packages and what they need"


@pytest.mark.skipif(shutil.which("mke2fs", path="/sbin:/usr/sbin") is None, reason="mke2fs is not installed")
def test_a_tree_becomes_a_file_system(tmp_path):
    tree, disk = tmp_path / "tree", tmp_path / "disk.raw"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "hostname").write_text("guest\n")
    make_disk(tree, disk, 16 << 20)
    assert disk.stat().st_size == 16 << 20 and disk.stat().st_blocks * 512 < 8 << 20
    tool = shutil.which("debugfs", path="/sbin:/usr/sbin")
    shown = subprocess.run([tool, "-R", "cat /etc/hostname", str(disk)], capture_output=True, text=True, check=True)
    assert shown.stdout == "guest\n"


@pytest.mark.skipif(shutil.which("mke2fs", path="/sbin:/usr/sbin") is None, reason="mke2fs is not installed")
def test_a_tree_that_does_not_fit(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(os.urandom(4 << 20))
    with pytest.raises(LabError, match=r"^disk image .*disk.raw: .*; check the free space of the cache folder$") as caught:
        make_disk(tree, tmp_path / "disk.raw", 1 << 20)
    assert caught.value.rc
