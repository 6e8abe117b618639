# SPDX-License-Identifier: GPL-3.0-or-later
"""Which QEMU runs the lab.

QEMU 11.1 maps a committed region directly; older ones emulate each access (about 45 MiB/s instead of GB/s) and break locked
instructions between hosts. Where the distribution's QEMU is older, a newer one runs out of a Debian tree beside it, through a
wrapper and without a chroot.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from .debian_root import Recipe, make_tree
from .errors import LabError
from .locking import build_once
from .runner import Runner

WANTED = (11, 1)
OLDEST = (10, 0)
DISTRO_QEMU = "/usr/bin/qemu-system-x86_64"
_LIBRARIES = "usr/lib/x86_64-linux-gnu"


@dataclass(frozen=True)
class Choice:
    """The emulator of the lab: its path, "distro" or "trixie", and why."""

    path: str
    source: str
    reason: str


def qemu_version(runner: Runner, path: str) -> tuple[int, int] | None:
    """(major, minor) of an emulator, None when it is not there or does not run."""
    try:
        done = runner.run([path, "--version"])
    except LabError:
        return None
    match = re.search(r"version (\d+)\.(\d+)", done.stdout)
    return (int(match.group(1)), int(match.group(2))) if done.rc == 0 and match else None


def choose(source: str, distro: tuple[int, int] | None, candidate: tuple[int, int] | None, tree: Path) -> Choice:
    """Decides where QEMU comes from.

    :param source: "auto", "distro" or "trixie".
    :param distro: version of the installed QEMU, None when none is installed.
    :param candidate: version that the distribution would install; counts when none is installed.
    :param tree: the Debian tree that holds (or will hold) the newer one.
    :raises LabError: when "distro" is asked for and it is too old.
    """
    have = distro or candidate
    shown = ".".join(map(str, have)) if have else "none"
    if source == "distro":
        if have is None or have < OLDEST:
            raise LabError(
                "cxl_hypervisor_qemu_source", f"the distribution offers QEMU {shown}, too old for CXL", 'use "trixie" or "auto"'
            )
        return Choice(DISTRO_QEMU, "distro", f"QEMU {shown}, as asked for")
    if source == "auto" and have is not None and have >= WANTED:
        return Choice(DISTRO_QEMU, "distro", f"QEMU {shown} maps regions directly")
    return Choice(
        str(wrapper(tree)),
        "trixie",
        "as asked for" if source == "trixie" else f"the distribution's QEMU ({shown}) is older than 11.1",
    )


def qemu_recipe(mirror: str) -> Recipe:
    """The tree with the newest QEMU that runs on Debian 12 and 13. Packages are only unpacked: nothing of it is ever booted."""
    return Recipe(
        kind="qemu",
        suite="trixie",
        extra_suites=("trixie-backports",),
        mirror=mirror,
        packages=("qemu-system-x86", "qemu-utils"),
        variant="extract",
    )


def wrapper(tree: Path) -> Path:
    return tree / "bin" / "qemu-system-x86_64"


def make_qemu(recipe: Recipe, cache: Path, runner: Runner | None = None) -> bool:
    """Builds the tree with its wrapper; True when it was made now."""
    final = recipe.folder(cache)

    def build(partial: Path) -> None:
        make_tree(recipe, partial, runner)
        script = wrapper(partial)
        script.parent.mkdir(exist_ok=True)
        script.write_text(wrapper_script(final))
        script.chmod(0o755)
        partial.chmod(0o755)

    return build_once(final, build)


def wrapper_script(tree: Path) -> str:
    """Runs the tree's QEMU with the tree's own libraries, modules and firmware.

    Without QEMU_MODULE_DIR it would load the host's modules and die while libvirt asks it for its abilities.
    """
    return (
        "#!/bin/sh\n"
        f"tree={shlex.quote(str(tree))}\n"
        f'export QEMU_MODULE_DIR="$tree/{_LIBRARIES}/qemu"\n'
        f'exec "$tree/{_LIBRARIES}/ld-linux-x86-64.so.2" --argv0 "$0" --library-path "$tree/{_LIBRARIES}" \\\n'
        '    "$tree/usr/bin/qemu-system-x86_64" -L "$tree/usr/share/qemu" -L "$tree/usr/share/seabios" "$@"\n'
    )
