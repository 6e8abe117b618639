# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases are installed for real: environments of the system's Python, and a wheel of three files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.release import Release, current, install, remove_old
from ansible.module_utils.cxl_lab.runner import HostRunner, Result
from fakes import FakeRunner
from hypothesis import given, settings
from hypothesis import strategies as st

MODULE_UTILS = Path(__file__).resolve().parents[2] / "module_utils"
CODE = """
import sys

def main():
    print("version", {version!r}, sys.argv[1:], sys.prefix, sys.flags.ignore_environment, sys.flags.no_user_site)
    return 3
"""
ENTRY_POINTS = "[console_scripts]\ncxl-Datapath = cxl_datapath.cli:main\n"


def make_wheel(folder: Path, version: str = "0.1.0", entry_points: str | None = ENTRY_POINTS, info: str | None = None) -> Path:
    """A wheel with one program that tells its version and ends with 3; the same words make the same wheel at any time."""
    folder.mkdir(exist_ok=True)
    wheel = folder / f"cxl_datapath-{version}-py3-none-linux_x86_64.whl"
    info = info or f"cxl_datapath-{version}.dist-info"
    files = {
        "cxl_datapath/__init__.py": "",
        "cxl_datapath/cli.py": CODE.format(version=version),
        f"{info}/METADATA": f"Name: cxl-datapath\nVersion: {version}\n",
        **({} if entry_points is None else {f"{info}/entry_points.txt": entry_points}),
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    return wheel


@pytest.fixture
def root(tmp_path):
    return tmp_path / "opt"


def put(root, version):
    """Installs this version; returns its name."""
    release = Release(root, make_wheel(root.parent / "wheels", version))
    install(release, HostRunner())
    return release.name


def test_a_release_runs(root):
    name = put(root, "0.1.0")
    assert current(root) == name and name.startswith("0.1.0-") and len(name) == len("0.1.0-") + 12
    done = subprocess.run(
        [str(root / "current" / "bin" / "cxl-Datapath"), "a b", "-x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == f"version 0.1.0 ['a b', '-x'] {root / name} 1 1\n"


def test_the_next_release_takes_over_and_the_old_one_stays(root):
    old, new = put(root, "0.1.0"), put(root, "0.2.0")
    assert current(root) == new and (root / old / "bin" / "cxl-Datapath").exists()
    assert put(root, "0.1.0") == old and current(root) == old, "back again, without building"


def test_installing_again_builds_nothing(root):
    put(root, "0.1.0")
    before = (root / current(root)).stat()
    put(root, "0.1.0")
    after = (root / current(root)).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_two_builds_of_one_version_are_two_releases(tmp_path, root):
    first = Release(root, make_wheel(tmp_path / "a"))
    second = Release(root, make_wheel(tmp_path / "b", entry_points=f"{ENTRY_POINTS}\n"))
    assert first.name != second.name


def test_current_when_there_is_none(root):
    assert current(root) == ""
    root.mkdir()
    (root / "current").symlink_to("gone")
    assert current(root) == ""
    (root / "current").unlink()
    (root / "current").mkdir()
    assert current(root) == ""


KILLED = """
import os, signal, sys
from pathlib import Path
from cxl_lab import release
from cxl_lab.runner import HostRunner

place, root, wheel = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if place == "unpack":
    release.zipfile.ZipFile.extractall = die
elif place == "script":
    release.ConfigParser.read = die
elif place == "rename":
    release.build_once = lambda target, build: die()
elif place == "link":
    Path.symlink_to = die
elif place == "switch":
    real = Path.rename
    Path.rename = lambda self, target: die() if self.name == ".current" else real(self, target)
release.install(release.Release(root, wheel), HostRunner())
"""


@pytest.mark.parametrize("place", ["unpack", "script", "rename", "link", "switch"])
def test_killed_anywhere_the_old_one_stays_current(root, place):
    old = put(root, "0.1.0")
    wheel = make_wheel(root.parent / "wheels", "0.2.0")
    command = [sys.executable, "-c", KILLED, place, str(root), str(wheel)]
    killed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(MODULE_UTILS)}, capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert current(root) == old
    assert subprocess.run([str(root / "current" / "bin" / "cxl-Datapath")], capture_output=True, check=False).returncode == 3
    install(Release(root, wheel), HostRunner())
    assert current(root).startswith("0.2.0-")
    assert sorted(path.name for path in root.iterdir() if not path.name.endswith(".lock")) == sorted(
        [old, current(root), "current"]
    )


def damaged(wheel: Path, how: str) -> Path:
    """Breaks a wheel."""
    content = bytearray(wheel.read_bytes())
    if how == "no archive":
        content = bytearray(b"<html>404</html>")
    elif how == "empty":
        content = bytearray()
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        start = content.index(b"cli.py") + len("cli.py")
        content[start : start + 40] = bytes(byte ^ 0xFF for byte in content[start : start + 40])
    wheel.write_bytes(content)
    return wheel


@pytest.mark.parametrize("how", ["no archive", "empty", "cut", "bits"])
def test_a_damaged_wheel(root, how):
    old = put(root, "0.1.0")
    wheel = damaged(make_wheel(root.parent / "wheels", "0.2.0"), how)
    with pytest.raises(
        LabError, match=r"^wheel cxl_datapath-0.2.0-py3-none-linux_x86_64.whl: is damaged; remove the wheel cache and run again$"
    ):
        install(Release(root, wheel), HostRunner())
    assert current(root) == old and not list(root.glob("0.2.0-*")) and not list(root.glob(".0.2.0-*.partial"))


@pytest.mark.parametrize(
    ("entry_points", "info"),
    [
        (None, None),
        ("", None),
        ("[gui_scripts]\na = b:c\n", None),
        ("no section\n", None),
        ("[console_scripts]\na = b\n", None),
        ("[console_scripts]\n../../evil = cxl_datapath.cli:main\n", None),
        ("[console_scripts]\na = cxl_datapath.cli:main, os; os.abort\n", None),
        (ENTRY_POINTS, "another-1.dist-info"),
    ],
    ids=["no entry points", "empty", "no scripts", "no section", "no function", "a path", "no name", "another project"],
)
def test_a_wheel_of_something_else(root, entry_points, info):
    wheel = make_wheel(root.parent / "wheels", "0.2.0", entry_points, info)
    with pytest.raises(LabError, match=r"^wheel cxl_datapath-0.2.0-py3-none-linux_x86_64.whl: ") as caught:
        install(Release(root, wheel), HostRunner())
    assert caught.value.next_step and current(root) == "" and not (root.parent / "evil").exists()


@pytest.mark.parametrize("name", ["wheel.whl", "a.tar.gz"])
def test_a_file_that_is_named_like_no_wheel(tmp_path, root, name):
    (tmp_path / name).touch()
    with pytest.raises(LabError, match=rf"^wheel {name}: is named like no wheel"):
        install(Release(root, tmp_path / name), HostRunner())


def test_a_wheel_cannot_write_elsewhere(root):
    wheel = make_wheel(root.parent / "wheels")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../../../../../outside.py", "")
        archive.writestr("/outside.py", "")
    install(Release(root, wheel), HostRunner())
    outside = [path for path in root.parent.rglob("outside.py") if "site-packages" not in path.parts]
    assert outside == [] and not Path("/outside.py").exists()


def test_no_environment_no_release(root):
    release = Release(root, make_wheel(root.parent / "wheels"))
    runner = FakeRunner({"/usr/bin/python3 -m venv": Result(1, "", "ensurepip is not available\n")})
    with pytest.raises(
        LabError, match=r"^virtual environment of cxl-datapath: ensurepip is not available; install python3-venv$"
    ):
        install(release, runner)
    assert current(root) == "" and not release.folder.exists()


def folders(root, names):
    """Releases of growing age; the first is the newest."""
    for age, name in enumerate(names):
        (root / name / "bin").mkdir(parents=True)
        os.utime(root / name, (1000 - age, 1000 - age))


def use(root, name):
    (root / "current").symlink_to(name)


@pytest.mark.parametrize(
    ("in_use", "removed"),
    [("0.4-d", ["0.2-b", "0.1-a"]), ("0.3-c", ["0.2-b", "0.1-a"]), ("0.1-a", ["0.3-c", "0.2-b"])],
)
def test_the_current_release_and_one_more_are_kept(root, in_use, removed):
    folders(root, ["0.4-d", "0.3-c", "0.2-b", "0.1-a"])
    use(root, in_use)
    assert remove_old(root) == removed
    assert not any((root / name).exists() for name in removed) and current(root) == in_use
    assert len(list(root.glob("0.*"))) == 2
    assert remove_old(root) == []


def test_what_is_no_release_is_left_alone(root):
    folders(root, ["0.3-c", "0.2-b", "0.1-a"])
    (root / "wheels").mkdir()
    (root / "0.notes.txt").touch()
    (root / ".0.4-d.partial").mkdir()
    use(root, "0.3-c")
    assert remove_old(root) == ["0.1-a"]
    assert {"wheels", "0.notes.txt", ".0.4-d.partial", "0.3-c", "0.2-b"} <= {path.name for path in root.iterdir()}


@settings(max_examples=30)
@given(st.integers(0, 6), st.integers(1, 4), st.data())
def test_any_number_of_releases(tmp_path_factory, number, keep, data):
    root = tmp_path_factory.mktemp("opt")
    names = [f"0.{index}-x" for index in range(number)]
    folders(root, names)
    in_use = data.draw(st.sampled_from(names)) if names else ""
    if in_use:
        use(root, in_use)
    remove_old(root, keep)
    left = {path.name for path in root.glob("0.*")}
    assert len(left) == min(number, keep) and (not in_use or in_use in left)
    assert left - {in_use} == set([name for name in names if name != in_use][: keep - 1])
