# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel that the user brings, as Debian packages or as a bzImage with its modules: what a guest tree gets for it. Pure."""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError

_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~_-]{0,63}")
#: Debian's kernel, which would only be in the way.
STOCK = re.compile(r"linux-image-.*")
_DROP = "/var/tmp"


@dataclass(frozen=True)
class OwnKernel:
    """Either ``debs``, or ``image`` with ``modules``, a folder as ``make modules_install`` leaves it; or nothing."""

    debs: tuple[Path, ...] = ()
    image: Path | None = None
    modules: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.debs or self.image)

    @property
    def version(self) -> str:
        """Of the kernel with modules: the name of their folder."""
        return self.modules.name if self.modules else ""

    def check(self) -> None:
        """
        :raises LabError: for files that are not there, and for halves of a kernel.
        """
        for path in (*self.debs, *filter(None, [self.image])):
            if not path.is_file():
                raise LabError(f"kernel {path}", "is no file", "correct the path")
        for path in self.debs:
            if path.suffix != ".deb":
                raise LabError(f"kernel {path}", "is no .deb file", "give a bzImage as kernel_image, with kernel_modules")
        if self.debs and self.image:
            raise LabError(
                "kernel", "is given as packages and as an image", "give kernel_debs, or kernel_image and kernel_modules"
            )
        if bool(self.image) != bool(self.modules):
            raise LabError("kernel", "is given without its modules, or modules without a kernel", "give both")
        if self.modules and not (self.modules.is_dir() and _VERSION.fullmatch(self.version)):
            step = "give the folder of one version, such as .../lib/modules/6.18.0"
            raise LabError(f"kernel modules {self.modules}", "is no folder of the modules of one version", step)

    def digest(self) -> str:
        """A hash over all of its content; "" for no kernel."""
        if not self:
            return ""
        hashed = hashlib.sha256()
        files = [*self.debs, *filter(None, [self.image])]
        files += sorted(path for path in self.modules.rglob("*") if path.is_file()) if self.modules else []
        for path in files:
            hashed.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    hashed.update(chunk)
        return hashed.hexdigest()[:16]

    def packages(self, packages: list[str]) -> list[str]:
        """The packages of the tree: without Debian's kernel, where there is another one."""
        return [name for name in packages if not STOCK.fullmatch(name)] if self else packages

    def hooks(self) -> list[str]:
        """Options of mmdebstrap, each a hook that runs when the packages are configured. Paths are quoted for its shell."""
        if self.debs:
            copy = " ".join(shlex.quote(str(path)) for path in self.debs)
            names = " ".join(shlex.quote(f"{_DROP}/{path.name}") for path in self.debs)
            install = f'chroot "$1" apt-get install --yes --allow-downgrades {names}'
            return _options(f"copy-in {copy} {_DROP}", install, f'chroot "$1" rm {names}')
        if self.image and self.modules:
            folder = f"/usr/lib/modules/{self.version}"
            dropped = shlex.quote(f"{_DROP}/{self.image.name}")
            return _options(
                f'mkdir -p "$1"{folder}',
                f"sync-in {shlex.quote(str(self.modules))} {folder}",
                f"copy-in {shlex.quote(str(self.image))} {_DROP}",
                f'chroot "$1" mv {dropped} /boot/vmlinuz-{self.version}',
                f'chroot "$1" depmod {self.version}',
                f'chroot "$1" update-initramfs -c -k {self.version}',
            )
        return []


def _options(*hooks: str) -> list[str]:
    return [f"--customize-hook={hook}" for hook in hooks]
