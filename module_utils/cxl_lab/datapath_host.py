# SPDX-License-Identifier: GPL-3.0-or-later
"""How a host reaches the current release of the daemon: the command in the path, and the service where there is systemd."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .release import current

_DEFAULT_ROOT = "/opt/cxl-datapath"


@dataclass(frozen=True)
class DatapathHost:
    """The places on a host; a record so that a test can choose them.

    :param root: folder of the releases.
    :param private: whether nothing on the machine leads to them, for hosts that are processes of it.
    """

    root: Path
    command: Path = Path("/usr/local/bin/cxl-datapath")
    unit: Path = Path("/etc/systemd/system/cxl-datapathd.service")
    systemd_folder: Path = Path("/run/systemd/system")
    private: bool = False

    @property
    def systemd(self) -> bool:
        """Whether systemd runs this host."""
        return self.systemd_folder.is_dir()

    def ready_release(self) -> str:
        """Name of the current release if command and service lead to it (or are not to), else ""."""
        if self.private:
            return current(self.root)
        unit = self._wanted_unit()
        linked = self.command.is_symlink() and self.command.readlink() == self._program()
        described = not self.systemd or (unit != "" and self.unit.is_file() and self.unit.read_text(encoding="utf-8") == unit)
        return current(self.root) if linked and described else ""

    def connect(self) -> None:
        """Puts the command into the path and describes the service, unless the releases are private.

        :raises LabError: when something that is no link is in the command's place.
        """
        if self.private:
            return
        if self.command.exists() and not self.command.is_symlink():
            raise LabError(f"command {self.command}", "is no link of ours", "remove it, or install elsewhere")
        fresh = self.command.with_name(f".{self.command.name}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(self._program())
        fresh.rename(self.command)
        if self.systemd:
            partial = self.unit.with_name(f".{self.unit.name}")
            partial.write_text(self._wanted_unit(), encoding="utf-8")
            partial.chmod(0o644)
            partial.rename(self.unit)

    def _program(self) -> Path:
        return self.root / "current/bin/cxl-datapath"

    def _wanted_unit(self) -> str:
        found = sorted(self.root.glob("current/lib/python3*/site-packages/cxl_datapath/systemd/cxl-datapathd.service"))
        return found[0].read_text(encoding="utf-8").replace(_DEFAULT_ROOT, str(self.root)) if found else ""
