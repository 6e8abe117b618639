# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable names: /dev/<name> as a link to the kernel's numbered device, replaced atomically, never over a stranger's file."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..errors import Code, DatapathError, from_errno

_OURS = re.compile(r"/dev/(ublkb|nbd)[0-9]+")


def check_free(link: Path) -> None:
    """Raises unless `link` does not exist, or is a link of an earlier run whose device is gone."""
    if not os.path.lexists(link):
        return
    hint = "choose another name"
    if not link.is_symlink():
        raise DatapathError(Code.EXISTS, str(link), "is there already and is not a link of ours", hint)
    if not _OURS.fullmatch(target := str(link.readlink())):
        raise DatapathError(Code.EXISTS, str(link), f"is a link to {target}, not one of ours", hint)
    if link.exists():
        raise DatapathError(Code.EXISTS, str(link), f"is the name of the live device {target}", hint)


def publish(link: Path, device: Path) -> None:
    """Points `link` at `device`."""
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
