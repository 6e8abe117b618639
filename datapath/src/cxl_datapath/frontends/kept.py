# SPDX-License-Identifier: GPL-3.0-or-later
"""ublk devices that nobody serves: the kernel keeps one whose server died, with the users that wait for it."""

from __future__ import annotations

import stat
from collections.abc import Container
from pathlib import Path

from .base import openers
from .names import ublk_number


def kept_devices(dev: Path, known: Container[str]) -> dict[str, int]:
    """The numbers of those with a stable name of ours that is not `known`, by that name."""
    named = {link.name: ublk_number(link) for link in dev.iterdir() if link.is_symlink() and link.name not in known}
    return {name: number for name, number in named.items() if number is not None and not _is_served(dev / f"ublkc{number}")}


def _is_served(control: Path) -> bool:
    """Its server, of whatever daemon of this machine, has the character device open."""
    try:
        return bool(openers(control.stat().st_rdev, stat.S_ISCHR))
    except OSError:
        return False
