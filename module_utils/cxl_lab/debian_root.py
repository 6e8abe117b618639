# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian trees by mmdebstrap: the guest's root file system, and a newer QEMU beside an older distribution.

Each tree is made from a recipe, and its folder in the cache carries the recipe's hash: built once, shared by every lab.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Mapping, Sequence

from .errors import LabError
from .progress import progress
from .runner import HostRunner, Runner, must

_GIVE_IT = "give the packages that it needs along with it, or take another version"
_BUILD_TIMEOUT = 1800.0
#: Pages for people, and what makes an initrd large and slow to unpack: the hardware database (13 MB) and every network driver,
#: which the hook of nbd-client adds.
_LEFT_OUT = (
    "/usr/share/man/*",
    "/usr/share/locale/*",
    "/usr/share/doc/*",
    "/usr/lib/udev/hwdb.d/*",
    "/usr/share/initramfs-tools/hooks/nbd*",
)

#: Their systemd (252 and older) does not take networks and host keys as credentials, which is how a guest learns who it is.
_TOO_OLD = ("bookworm", "bullseye", "buster", "oldstable", "oldoldstable")


@dataclass(frozen=True)
class Recipe:
    """What goes into a tree.

    :param kind: "guest" or "qemu"; the first part of the folder's name.
    :param suite: Debian suite ("trixie").
    :param extra_suites: suites that are preferred over it where they carry a package ("trixie-backports").
    :param mirror: address of the archive; its signatures are checked with the keys that Debian ships.
    :param variant: mmdebstrap's variant.
    :param files: folder that is laid over the tree before the packages are configured; its content is part of the hash.
    :param settings: other things that the result depends on.
    """

    kind: str
    suite: str
    mirror: str
    packages: Sequence[str]
    variant: str
    extra_suites: Sequence[str] = ()
    files: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    def digest(self) -> str:
        """Sixteen hex digits over everything above, file contents and modes included."""
        text = json.dumps({**asdict(self), "files": None}, sort_keys=True, default=list)
        hashed = hashlib.sha256(text.encode())
        for path in sorted(Path(self.files).rglob("*")) if self.files else ():
            entry = path.relative_to(self.files or "").as_posix()
            content = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
            hashed.update(f"{entry}\0{path.lstat().st_mode:o}\0{len(content)}\0".encode() + content)
        return hashed.hexdigest()[:16]

    def folder(self, cache: Path) -> Path:
        """Where the tree lives in the cache."""
        return cache / f"{self.kind}-{self.digest()}"


def check_suite(suite: str) -> None:
    """
    :raises LabError: for a Debian whose guests nobody could log in to.
    """
    if suite in _TOO_OLD:
        problem = f"{suite} is too old: its systemd cannot take the keys and networks of a lab"
        raise LabError("cxl_guest_image_suite", problem, "use trixie or a later one")


def mmdebstrap_command(recipe: Recipe, root: Path, hooks: Sequence[str] = ()) -> list[str]:
    """The command that makes the tree at ``root``; ``hooks`` as for `make_tree`."""
    command = [
        "mmdebstrap",
        "--mode=root",
        "--format=directory",
        f"--variant={recipe.variant}",
        f"--include={','.join(recipe.packages)}",
        '--aptopt=APT::Install-Recommends "0"',
        '--aptopt=Acquire::Retries "3"',
        '--aptopt=Acquire::Languages "none"',
    ]
    if recipe.extra_suites:
        command.append(f'--aptopt=APT::Default-Release "{recipe.extra_suites[-1]}"')
    if recipe.variant != "extract":
        command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
        command.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    if recipe.files:
        command.append(f"--essential-hook=sync-in {shlex.quote(recipe.files)} /")
    command += [*hooks, recipe.suite, str(root)]
    command += [f"deb {recipe.mirror} {suite} main" for suite in (recipe.suite, *recipe.extra_suites)]
    return command


def make_tree(recipe: Recipe, root: Path, runner: Runner | None = None, hooks: Sequence[str] = ()) -> None:
    """Builds the tree.

    :param hooks: more options of mmdebstrap. They tell where things are; what is in them belongs into the recipe's settings.
    :raises LabError: with apt's own words when the archive cannot be reached or a package is missing.
    """
    progress(f"mmdebstrap: {recipe.suite}, {len(recipe.packages)} packages and what they need")
    command = mmdebstrap_command(recipe, root, hooks)
    done = (runner or HostRunner()).run(command, timeout=_BUILD_TIMEOUT)
    if done.rc == 0:
        return
    lines = done.stderr.splitlines()
    causes = [line.strip() for line in lines if line.startswith("E:") and "mmdebstrap failed" not in line]
    # apt's own conclusion is the same for all of them: "held broken packages".
    unmet = next((after.strip() for line, after in pairwise(lines) if "unmet dependencies" in line), "")
    raise LabError(
        f"{recipe.kind} tree of {recipe.suite} from {recipe.mirror}",
        unmet or (causes[0] if causes else f"mmdebstrap ended with exit code {done.rc}"),
        _GIVE_IT if unmet else "check the mirror's address and the network, then run again",
        cmd=command,
        rc=done.rc,
        stderr="\n".join(lines[-30:]),
    )


def make_disk(tree: Path, disk: Path, size: int, runner: Runner | None = None) -> None:
    """Puts a tree into a sparse raw ext4 image of ``size`` bytes."""
    progress(f"mke2fs: {disk.name}")
    with disk.open("wb") as image:
        image.truncate(size)
    options = "lazy_itable_init=1,lazy_journal_init=1"
    command = ["mke2fs", "-q", "-t", "ext4", "-L", "cxl-lab", "-E", options, "-d", str(tree), str(disk)]
    fix = "check the free space of the cache folder"
    must(runner or HostRunner(), command, f"disk image {disk}", fix, timeout=_BUILD_TIMEOUT)
