# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_datapath_release as Ansible runs it, with real environments."""

from __future__ import annotations

import multiprocessing
import subprocess
import zipfile
from functools import partial
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.datapath_host import DatapathHost
from ansible.modules import cxl_datapath_release
from fakes import run_module


@pytest.fixture
def wheel(tmp_path):
    """Makes a wheel of a version, the same at any time; returns its path."""

    def make(version: str) -> str:
        path = tmp_path / f"cxl_datapath-{version}-py3-none-linux_x86_64.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in {
                "cxl_datapath.py": f"def main():\n    print({version!r})\n",
                f"cxl_datapath-{version}.dist-info/entry_points.txt": "[console_scripts]\ncxl-datapath = cxl_datapath:main\n",
            }.items():
                archive.writestr(zipfile.ZipInfo(name), text)
        return str(path)

    return make


@pytest.fixture
def release(monkeypatch, capsys, tmp_path):
    root = str(tmp_path / "opt")
    places = (tmp_path / "command", tmp_path / "unit", tmp_path / "systemd")
    monkeypatch.setattr(cxl_datapath_release, "DatapathHost", lambda root, private: DatapathHost(root, *places, private))
    run = partial(run_module, cxl_datapath_release, monkeypatch, capsys)
    return lambda wheel, check=False, **more: run(check=check, wheel=wheel, root=root, **more)


def version(tmp_path) -> str:
    """What the current release says of itself."""
    return subprocess.run(
        [str(tmp_path / "opt/current/bin/cxl-datapath")], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_install_twice_and_the_next(release, wheel, tmp_path):
    first = release(wheel("0.1.0"))
    assert first["changed"] is True and first["release"].startswith("0.1.0-") and version(tmp_path) == "0.1.0"
    assert first["diff"] == {"before": "\n", "after": f"{first['release']}\n"}
    again = release(wheel("0.1.0"))
    assert again["changed"] is False and again["release"] == first["release"]
    second = release(wheel("0.2.0"))
    assert second["changed"] is True and version(tmp_path) == "0.2.0" and second["removed"] == []
    third = release(wheel("0.3.0"))
    assert third["removed"] == [first["release"]] and version(tmp_path) == "0.3.0"


def test_check_mode_installs_nothing(release, wheel, tmp_path):
    planned = release(wheel("0.1.0"), check=True)
    assert planned["changed"] is True and planned["release"] == "" and not (tmp_path / "opt").exists()
    assert planned["diff"]["after"].startswith("0.1.0-")
    release(wheel("0.1.0"))
    assert release(wheel("0.1.0"), check=True)["changed"] is False


def test_a_wheel_that_is_not_there(release, tmp_path):
    path = str(tmp_path / "cxl_datapath-1-py3-none-any.whl")
    result = release(path)
    assert result["failed"] is True and result["msg"] == f"wheel {path}: does not exist on this host; copy it there first"
    assert release(path, check=True)["changed"] is True, "an earlier task would have copied it"


def test_a_damaged_wheel_leaves_the_old_release(release, wheel, tmp_path):
    release(wheel("0.1.0"))
    broken = tmp_path / "cxl_datapath-0.2.0-py3-none-linux_x86_64.whl"
    broken.write_bytes(b"<html>404</html>")
    result = release(str(broken))
    assert result["failed"] is True and result["msg"] == f"wheel {broken.name}: is damaged; remove the wheel cache and run again"
    assert version(tmp_path) == "0.1.0"


def test_a_private_release_leaves_the_machine_alone(release, wheel, tmp_path):
    result = release(wheel("0.1.0"), private=True)
    assert result["changed"] is True and result["release"].startswith("0.1.0-") and version(tmp_path) == "0.1.0"
    assert not (tmp_path / "command").is_symlink() and release(wheel("0.1.0"), private=True)["changed"] is False
    assert release(wheel("0.1.0"))["changed"] is True, "the machine's own is not connected yet"
    assert (tmp_path / "command").is_symlink()


def _install(root: str, wheel: str, results: multiprocessing.Queue) -> None:
    class Module:
        params = {"root": root, "wheel": wheel, "private": True}
        check_mode = False

    results.put(cxl_datapath_release.work(Module()))


def test_hosts_of_one_machine_that_install_at_once(wheel, tmp_path):
    root, results = str(tmp_path / "opt"), multiprocessing.Queue()
    hosts = [multiprocessing.Process(target=_install, args=(root, wheel("0.1.0"), results)) for _ in range(4)]
    for host in hosts:
        host.start()
    found = [results.get(timeout=120) for _ in hosts]
    for host in hosts:
        host.join()
    assert sorted(result["changed"] for result in found) == [False, False, False, True]
    assert {result["release"] for result in found} == {Path(root, "current").readlink().name} and version(tmp_path) == "0.1.0"
