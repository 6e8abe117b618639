# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_datapath_wheel as Ansible runs it; the build itself is pretended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import wheel
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_datapath_wheel
from fakes import FakeRunner, run_module


@pytest.fixture
def pip(monkeypatch):
    def build() -> str:
        words = runner.ran[-1].split()
        (Path(words[words.index("--wheel-dir") + 1]) / "cxl_datapath-0.1.0-py3-none-linux_x86_64.whl").touch()
        return ""

    runner = FakeRunner({f"{sys.executable} -m pip": build})
    monkeypatch.setattr(wheel, "HostRunner", lambda: runner)
    return runner


@pytest.fixture
def build(pip, monkeypatch, capsys, tmp_path):
    for name in ("pyproject.toml", "README.md", "CMakeLists.txt", "src/a.py", "core/a.c"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).touch()
    paths = {"source": str(tmp_path / "source"), "cache_dir": str(tmp_path / "cache")}
    return lambda check=False, **args: run_module(cxl_datapath_wheel, monkeypatch, capsys, check=check, **{**paths, **args})


def test_built_once_per_state_of_the_sources(build, pip, tmp_path):
    first = build()
    assert first["changed"] is True and Path(first["wheel"]).is_file()
    assert build() | {"changed": False, "wheel": first["wheel"]} == build()
    (tmp_path / "source/core/a.c").write_text("int a;")
    assert build()["wheel"] != first["wheel"] and len(pip.ran) == 2


def test_check_mode_builds_nothing(build, pip, tmp_path):
    planned = build(check=True)
    assert planned["changed"] is True and planned["wheel"] == "" and pip.ran == [] and not (tmp_path / "cache").exists()
    made = build()["wheel"]
    assert build(check=True)["wheel"] == made and build(check=True)["changed"] is False


def test_the_wrong_folder(build, tmp_path):
    for check in (True, False):
        result = build(check=check, source=str(tmp_path))
        assert result["failed"] is True
        assert (
            result["msg"]
            == f"source {tmp_path}: has no pyproject.toml; point cxl_datapath_source at the folder datapath of cxl.lab"
        )


def test_a_compiler_that_fails(build, pip):
    pip.answers = {"": Result(1, "", "a.c:1: error: expected ';'\nERROR: Failed building wheel for cxl-datapath\n")}
    result = build()
    assert result["failed"] is True and result["rc"] == 1 and "expected ';'" in result["stderr"]
    assert result["msg"].startswith("wheel of cxl-datapath: ERROR: Failed building wheel") and "compiler" in result["msg"]
