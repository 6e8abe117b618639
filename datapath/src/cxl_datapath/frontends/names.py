# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable names: /dev/<name> as a link to the kernel's numbered device, replaced atomically, never over a stranger's file."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..errors import Code, DatapathError, from_errno

_OURS = re.compile(r"/dev/(ublkb|nbd)([0-9]+)")


def check_free(link: Path) -> None:
    """Raises unless `link` does not exist, or is a link of an earlier run whose device is gone."""
    if not os.path.lexists(link):
        return
    hint = "choose another name"
    if not link.is_symlink():
        raise DatapathError(Code.EXISTS, str(link), "is there already and is not a link of ours", hint)
    if not _OURS.fullmatch(target := str(link.readlink())):
        raise DatapathError(Code.EXISTS, str(link), f"is a link to {target}, not one of ours", hint)
    if _is_live(Path(target)):
        raise DatapathError(Code.EXISTS, str(link), f"is the name of the live device {target}", hint)


def _is_live(device: Path) -> bool:
    """A ublk device has a node as long as it exists; the nodes of nbd are always there, but only used ones have a client."""
    if device.name.startswith("nbd"):
        return Path("/sys/block", device.name, "pid").exists()
    return device.exists()


def ublk_number(link: Path) -> int | None:
    """The number of the ublk device of an earlier run that `link` still names; None when there is none."""
    found = _OURS.fullmatch(str(link.readlink())) if link.is_symlink() else None
    return int(found[2]) if found and found[1] == "ublkb" and link.exists() else None


def publish(link: Path, device: Path) -> None:
    """Points `link` at `device`."""
    if link.is_symlink() and link.readlink() == device:
        return  # taken over from an earlier run
    check_free(link)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        temporary.symlink_to(device)
        temporary.replace(link)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise from_errno(error.errno or 0, str(link), f"link it to {device}") from None


def withdraw(link: Path, device: Path) -> None:
    """Removes `link` if it still points at `device`; never raises."""
    with contextlib.suppress(OSError):
        if link.readlink() == device:
            link.unlink()
