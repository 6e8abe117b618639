# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of the daemon on a host: each in a folder of its own, one of them current, the one before kept for a rollback.

A release is a virtual environment without pip into which the wheel is unpacked: the daemon needs nothing but the standard
library, and an installer would take half a minute under emulation to do the same.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
import zlib
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .locking import build_once
from .runner import Runner, must

_WHEEL = re.compile(r"cxl_datapath-(\d[\w.+!]*)-.+\.whl", re.ASCII)
_PROGRAM = re.compile(r"([\w-]+)=([a-z_][\w.]*):([a-z_]\w*)", re.ASCII | re.IGNORECASE)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
_BUILD_IT = "build it with cxl_datapath_wheel"


@dataclass(frozen=True)
class Release:
    """A wheel and the folder that it belongs into below ``root``."""

    root: Path
    wheel: Path

    @property
    def name(self) -> str:
        """ "<version>-<hash of the wheel>"; two builds of one version are two releases."""
        match = _WHEEL.fullmatch(self.wheel.name)
        if match is None:
            raise LabError(f"wheel {self.wheel.name}", "is named like no wheel of cxl-datapath", _BUILD_IT)
        return f"{match.group(1)}-{hashlib.sha256(self.wheel.read_bytes()).hexdigest()[:12]}"

    @property
    def folder(self) -> Path:
        return self.root / self.name


def current(root: Path) -> str:
    """Name of the release that is in use, "" when there is none."""
    link = root / "current"
    return link.readlink().name if link.is_symlink() and link.exists() else ""


def install(release: Release, runner: Runner, python: str = "/usr/bin/python3") -> None:
    """Unpacks the release and makes it the current one. Killed anywhere, the old one stays current.

    :raises LabError: when the wheel is damaged or Python cannot make an environment.
    """
    build_once(release.folder, lambda partial: _unpack(release, partial, runner, python))
    link, fresh = release.root / "current", release.root / ".current"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(release.name)
    fresh.rename(link)


def remove_old(root: Path, keep: int = 2) -> list[str]:
    """Removes releases that are neither current nor among the newest ``keep``; returns their names."""
    folders = [path for path in root.glob("[0-9]*") if path.is_dir()]
    folders.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    in_use = current(root)
    others = [path for path in folders if path.name != in_use]
    for path in others[keep - 1 :]:
        shutil.rmtree(path)
    return [path.name for path in others[keep - 1 :]]


def _unpack(release: Release, partial: Path, runner: Runner, python: str) -> None:
    must(
        runner,
        [python, "-m", "venv", "--without-pip", str(partial)],
        "virtual environment of cxl-datapath",
        "install python3-venv",
    )
    packages = next((partial / "lib").glob("python3*")) / "site-packages"
    try:
        with zipfile.ZipFile(release.wheel) as archive:
            archive.extractall(packages)
    except _DAMAGED as bad:
        raise LabError(f"wheel {release.wheel.name}", "is damaged", "remove the wheel cache and run again") from bad
    for name, module, function in _programs(release, packages):
        script = partial / "bin" / name
        # The interpreter's final path: the environment is built beside its place and then renamed.
        script.write_text(
            f"#!{release.folder}/bin/python3 -Es\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)


def _programs(release: Release, packages: Path) -> list[tuple[str, str, str]]:
    """Name, module and function of each program, from the wheel's entry points."""
    entry_points = ConfigParser(interpolation=None)
    entry_points.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        entry_points.read(sorted(packages.glob("cxl_datapath-*.dist-info/entry_points.txt")), encoding="utf-8")
        lines = [f"{name}={target}" for name, target in entry_points["console_scripts"].items()]
    except (ConfigParserError, UnicodeDecodeError, KeyError):
        lines = []
    programs = [match.groups() for match in map(_PROGRAM.fullmatch, lines) if match]
    if not programs or len(programs) != len(lines):
        raise LabError(f"wheel {release.wheel.name}", "has no programs of cxl-datapath", _BUILD_IT)
    return [(name, module, function) for name, module, function in programs]
