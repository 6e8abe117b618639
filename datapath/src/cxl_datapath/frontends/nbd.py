# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's nbd client on our NBD server: a block device for kernels without ublk."""

from __future__ import annotations

import re
from pathlib import Path

from ..core import ChannelConf
from ..errors import Code, DatapathError
from .base import FrontEnd, Target, check_unused, missing_module, missing_program, run_tool
from .names import check_free, publish, withdraw
from .nbdkit import NbdkitFrontEnd, NbdServer

_BLOCK = Path("/sys/block")


def free_devices(block: Path = _BLOCK) -> list[str]:
    """Names nbdN that no client uses, lowest number first: a used one has a `pid` attribute."""
    names = [entry.name for entry in block.glob("nbd*") if entry.name[3:].isdigit() and not (entry / "pid").exists()]
    return sorted(names, key=lambda name: int(name[3:]))


def _client(name: str) -> str:
    """The process that configured the device; empty when it is free."""
    try:
        return (_BLOCK / name / "pid").read_text().strip()
    except OSError:
        return ""


class NbdFrontEnd(FrontEnd):
    @staticmethod
    def missing() -> str:
        module = missing_module("nbd", Path("/sys/module/nbd"))
        return module or missing_program("nbd-client", "nbd-client") or NbdkitFrontEnd.missing()

    def __init__(self, target: Target) -> None:
        self._target = target
        self._server = NbdServer(target)
        self._link = target.dev / target.name
        self._record = target.runtime / f"{target.name}.nbd"
        self._device: Path | None = None

    def start(self) -> str:
        self._drop_old_connection()
        check_free(self._link)
        self._server.start()
        try:
            self._device = self._connect()
            self._record.write_text(f"{self._device.name} {_client(self._device.name)}")
            publish(self._link, self._device)
        except BaseException:
            self.abort()
            raise
        return str(self._link)

    def kept(self) -> bool:
        """The kernel gave up what the last server left unanswered."""
        return False

    def rebind(self, channels: list[ChannelConf]) -> None:
        self._server.rebind(channels)

    def set_offline(self, error: int) -> None:
        self._server.set_offline(error)

    def progress(self) -> list[tuple[int, int]]:
        return self._server.progress()

    def check(self) -> None:
        self._server.check()
        if self._device is not None and not (_BLOCK / self._device.name / "pid").exists():
            raise DatapathError(Code.FAILED, str(self._device), "the kernel dropped the connection")

    def stop(self) -> None:
        if self._device is not None:
            check_unused(self._device, f"blkdev {self._target.name}")
        self.abort()

    def abort(self) -> None:
        if self._device is not None:
            withdraw(self._link, self._device)
            run_tool("nbd-client", "-d", str(self._device))
            self._device = None
            self._record.unlink(missing_ok=True)
        self._server.kill()

    def _drop_old_connection(self) -> None:
        """The kernel keeps a connection whose server was killed. It is ours if nobody else has used the device since."""
        try:
            name, client = self._record.read_text().split()
        except (OSError, ValueError):
            return
        if re.fullmatch(r"nbd[0-9]+", name) and _client(name) == client:
            run_tool("nbd-client", "-d", str(self._target.dev / name))
        self._record.unlink(missing_ok=True)

    def _connect(self) -> Path:
        """Tries each free device: another program may take one between our look and our try."""
        reason = "there is no free /dev/nbdN"
        for name in free_devices():
            device = self._target.dev / name
            command = ["nbd-client", "-unix", str(self._server.socket), str(device), "-block-size", str(self._target.block_size)]
            if len(self._target.queues) > 1:
                command += ["-connections", str(len(self._target.queues))]
            if self._target.read_only:
                command.append("-readonly")
            reason = run_tool(*command)
            if not reason:
                return device
        raise DatapathError(Code.FAILED, "nbd-client", reason, "look at the kernel log; more devices: modprobe nbd nbds_max=N")
