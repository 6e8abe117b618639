# SPDX-License-Identifier: GPL-3.0-or-later
"""The daemon's wheel: built once per state of its sources, on the machine that runs the playbook."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from .errors import LabError
from .locking import build_once
from .progress import progress
from .runner import HostRunner, Runner, must

#: What goes into the wheel, relative to the source folder. Tests, the bench and build folders do not.
SOURCES = ("pyproject.toml", "README.md", "CMakeLists.txt", "src", "core")
_IGNORED = {"__pycache__", "bench", "tests", "build"}
_BUILD_TIMEOUT = 600.0


def source_files(source: Path) -> list[Path]:
    """The files that the wheel is made of, sorted.

    :raises LabError: when this is not the daemon's source folder.
    """
    missing = [name for name in SOURCES if not (source / name).exists()]
    if missing:
        raise LabError(f"source {source}", f"has no {missing[0]}", "point cxl_datapath_source at the folder datapath of cxl.lab")
    tops = [source / name for name in SOURCES]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*")) if file.is_file()]
    return sorted(file for file in files if not _IGNORED.intersection(file.relative_to(source).parts))


def digest(source: Path) -> str:
    """Sixteen hex digits over names and contents."""
    hashed = hashlib.sha256()
    for file in source_files(source):
        content = file.read_bytes()
        hashed.update(f"{file.relative_to(source).as_posix()}\0{len(content)}\0".encode() + content)
    return hashed.hexdigest()[:16]


def build_wheel(source: Path, cache: Path, python: str, runner: Runner | None = None) -> tuple[Path, bool]:
    """The wheel of these sources, and whether it was built now.

    :param python: interpreter that has pip; it also makes the isolated build environment.
    :raises LabError: with the compiler's words when the build fails.
    """
    folder = cache / f"wheel-{digest(source)}"

    def build(partial: Path) -> None:
        progress("building the data path daemon's wheel")
        copy = partial / "source"
        for file in source_files(source):
            target = copy / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        command = [*pip, "wheel", "--no-deps", "--wheel-dir", str(partial), str(copy)]
        must(runner or HostRunner(), command, "wheel of cxl-datapath", "look at the compiler's messages", timeout=_BUILD_TIMEOUT)
        shutil.rmtree(copy)

    changed = build_once(folder, build)
    return find_wheel(folder), changed


def find_wheel(folder: Path) -> Path:
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise LabError(f"wheel folder {folder}", f"holds {len(wheels)} wheels", "remove it and run again")
    return wheels[0]
