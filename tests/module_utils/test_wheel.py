# SPDX-License-Identifier: GPL-3.0-or-later
"""One wheel per state of the sources. The build itself is that of the daemon's own tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import Result
from ansible.module_utils.cxl_lab.wheel import build_wheel, digest, find_wheel, source_files
from fakes import FakeRunner
from labs import ROOT


@pytest.fixture
def source(tmp_path):
    """A source folder like the daemon's."""
    files = (
        "pyproject.toml",
        "README.md",
        "CMakeLists.txt",
        "src/cxl_datapath/__init__.py",
        "src/cxl_datapath/cbd/wire.py",
        "core/ring.c",
    )
    for name in files:
        file = tmp_path / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}\n")
    return tmp_path / "source"


class Pip(FakeRunner):
    """Makes a wheel of whatever is there; remembers which files that were."""

    def __init__(self, wheels=("cxl_datapath-0.1.0-py3-none-linux_x86_64.whl",)) -> None:
        super().__init__({"/venv/bin/python -m pip": self.build})
        self.wheels = wheels
        self.seen: list[str] = []

    def build(self) -> str:
        words = self.ran[-1].split()
        folder, source = Path(words[words.index("--wheel-dir") + 1]), Path(words[-1])
        self.seen = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
        for name in self.wheels:
            (folder / name).write_text("wheel")
        return ""


def test_a_wheel_is_built_once(source, tmp_path):
    pip = Pip()
    wheel, changed = build_wheel(source, tmp_path / "cache", "/venv/bin/python", pip)
    assert changed is True and wheel == tmp_path / "cache" / f"wheel-{digest(source)}" / pip.wheels[0]
    assert wheel.read_text() == "wheel" and [path.name for path in wheel.parent.iterdir()] == [wheel.name], "the copy is gone"
    assert build_wheel(source, tmp_path / "cache", "/venv/bin/python", pip) == (wheel, False)
    assert len(pip.ran) == 1 and "--no-deps" in pip.ran[0]


def test_the_build_sees_a_copy_of_the_sources(source, tmp_path):
    pip = Pip()
    (source / "tests").mkdir()
    (source / "tests" / "test_all.py").touch()
    build_wheel(source, tmp_path / "cache", "/venv/bin/python", pip)
    assert pip.seen == [
        "CMakeLists.txt",
        "README.md",
        "core/ring.c",
        "pyproject.toml",
        "src/cxl_datapath/__init__.py",
        "src/cxl_datapath/cbd/wire.py",
    ]
    assert not pip.ran[0].endswith(str(source))


@pytest.mark.parametrize(
    "name",
    [
        "tests/test_ring.py",
        "core/tests/test_ring.c",
        "core/bench/main.c",
        "src/cxl_datapath/__pycache__/wire.pyc",
        "core/build/ring.o",
        "systemd/other.service",
        "dist/a.whl",
    ],
)
def test_what_is_not_in_the_wheel_does_not_matter(source, name):
    before = digest(source)
    (source / name).parent.mkdir(parents=True, exist_ok=True)
    (source / name).write_text("something")
    assert digest(source) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "core/ring.c").write_text("other"),
        lambda source: (source / "pyproject.toml").write_text(""),
        lambda source: (source / "src/cxl_datapath/new.py").touch(),
        lambda source: (source / "core/ring.c").rename(source / "core/rings.c"),
        lambda source: (source / "src/cxl_datapath/__init__.py").unlink(),
    ],
    ids=["content", "empty", "new", "renamed", "removed"],
)
def test_what_is_in_the_wheel_matters(source, change):
    before = digest(source)
    change(source)
    assert digest(source) != before


def test_the_place_of_the_sources_does_not_matter(source, tmp_path):
    shutil.copytree(source, tmp_path / "elsewhere")
    assert digest(source) == digest(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["pyproject.toml", "README.md", "CMakeLists.txt", "src", "core"])
def test_another_folder_is_told_apart(source, name):
    path = source / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(LabError, match=rf"^source .*/source: has no {name}; point cxl_datapath_source at"):
        digest(source)


def test_the_daemon_has_what_the_wheel_needs():
    files = [file.relative_to(ROOT / "datapath").as_posix() for file in source_files(ROOT / "datapath")]
    assert "core/cxl_core.h" in files and "src/cxl_datapath/__init__.py" in files
    assert not any(part in file.split("/") for file in files for part in ("tests", "__pycache__", "build"))


def test_a_failed_build_leaves_nothing_and_is_tried_again(source, tmp_path):
    broken = FakeRunner(
        {"/venv/bin/python": Result(1, "", "ring.c:3:1: error: unknown type name 'u64'\nERROR: Failed to build\n")}
    )
    with pytest.raises(
        LabError, match=r"^wheel of cxl-datapath: ERROR: Failed to build; look at the compiler's messages$"
    ) as caught:
        build_wheel(source, tmp_path / "cache", "/venv/bin/python", broken)
    assert "unknown type name" in caught.value.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f".wheel-{digest(source)}.lock"]
    assert build_wheel(source, tmp_path / "cache", "/venv/bin/python", Pip())[1] is True


@pytest.mark.parametrize("wheels", [(), ("a-1-py3-none-any.whl", "b-1-py3-none-any.whl")])
def test_a_folder_without_the_one_wheel(source, tmp_path, wheels):
    with pytest.raises(LabError, match=rf"^wheel folder .*: holds {len(wheels)} wheels; remove it and run again$"):
        build_wheel(source, tmp_path / "cache", "/venv/bin/python", Pip(wheels))
    with pytest.raises(LabError, match="remove it and run again"):
        find_wheel(tmp_path / "cache" / f"wheel-{digest(source)}")
