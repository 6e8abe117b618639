# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases of the daemon on a host: each in a folder of its own, one of them current, the one before kept for a rollback.

A release is a virtual environment without pip into which the wheel is unpacked: the daemon needs nothing but the standard
library, and an installer would take half a minute under emulation to do the same.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .locking import build_once
from .runner import Runner, must


@dataclass(frozen=True)
class Release:
    """A wheel and the folder that it belongs into below ``root``."""

    root: Path
    wheel: Path

    @property
    def name(self) -> str:
        """ "<version>-<hash of the wheel>"; two builds of one version are two releases."""
        return f"{self.wheel.name.split('-')[1]}-{hashlib.sha256(self.wheel.read_bytes()).hexdigest()[:12]}"

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
    except zipfile.BadZipFile as bad:
        raise LabError(f"wheel {release.wheel.name}", "is damaged", "remove the wheel cache and run again") from bad
    entry_points = ConfigParser()
    entry_points.optionxform = str  # type: ignore[assignment,method-assign]
    entry_points.read(next(packages.glob("cxl_datapath-*.dist-info")) / "entry_points.txt")
    for name, target in entry_points["console_scripts"].items():
        module, function = target.split(":")
        script = partial / "bin" / name
        # The interpreter's final path: the environment is built beside its place and then renamed.
        script.write_text(
            f"#!{release.folder}/bin/python3 -Es\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)
