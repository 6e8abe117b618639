# SPDX-License-Identifier: GPL-3.0-or-later
"""A block device of the kernel's NBD client: attach a free /dev/nbdN to a server, and give it back.

The kernel does not tell which server a device is attached to. A record says which one was attached here, by the process that did
it: a device that somebody else took since has another one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError, shown
from .names import check_name
from .runner import Runner, last_line, must

BLOCK = Path("/sys/block")
RUN_FOLDER = Path("/run/cxl-lab")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_TIMEOUT = 60  # seconds until the kernel gives up a request that the server does not answer


@dataclass(frozen=True)
class Attachment:
    """The server that a record names, and the device that is attached to it."""

    host: str
    port: int
    device: str = ""

    def reaches(self, other: Attachment) -> bool:
        """Whether both go to one server."""
        return (self.host, self.port) == (other.host, other.port)


def parse_want(host: str, port: int) -> Attachment:
    """:raises LabError: when it is no address of a server."""
    if not _HOST.fullmatch(host):
        raise LabError("NBD server", f"{shown(host)} is no host", "write a name or an IPv4 address")
    if not 0 < port < 65536:
        raise LabError("NBD server", f"{port} is no port", "use 1 to 65535")
    return Attachment(host, port)


def record_path(name: str, folder: Path = RUN_FOLDER) -> Path:
    """Where it is written down which device carries ``name``."""
    return folder / f"{check_name(name, 'name')}.nbd"


def observe(record: Path, block: Path = BLOCK) -> Attachment | None:
    """What was attached here and still is; None when nothing is."""
    try:
        device, client, host, port = record.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    if not (re.fullmatch(r"nbd\d+", device, re.ASCII) and port.isdigit() and client == client_of(device, block)):
        return None
    return Attachment(host, int(port), f"/dev/{device}")


def client_of(device: str, block: Path = BLOCK) -> str:
    """The process that attached the device, "" for a free one."""
    try:
        return (block / device / "pid").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def attach(runner: Runner, want: Attachment, record: Path, block: Path = BLOCK) -> None:
    """Takes the first free device; another program may take one between the look and the try.

    :raises LabError: when none of them can be attached.
    """
    subject = f"NBD server {want.host}:{want.port}"
    must(runner, ["modprobe", "nbd"], subject, "install a kernel with the nbd driver")
    names = [path.name for path in block.glob("nbd*") if path.name[3:].isdigit() and not client_of(path.name, block)]
    reason = "there is no free /dev/nbdN"
    for name in sorted(names, key=lambda name: int(name[3:])):
        done = runner.run(["nbd-client", want.host, str(want.port), f"/dev/{name}", "-timeout", str(_TIMEOUT)])
        if done.rc == 0:
            record.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            record.write_text(f"{name} {client_of(name, block)} {want.host} {want.port}\n", encoding="utf-8")
            return
        reason = last_line(done.stderr) or last_line(done.stdout) or f"nbd-client ended with exit code {done.rc}"
    raise LabError(subject, reason, "see that it listens and that a /dev/nbdN is free (nbd-client -c)")


def detach(runner: Runner, have: Attachment, record: Path) -> None:
    """Gives the device back."""
    must(runner, ["nbd-client", "-d", have.device], have.device, "close what uses it")
    record.unlink(missing_ok=True)
