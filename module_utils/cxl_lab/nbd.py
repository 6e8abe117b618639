# SPDX-License-Identifier: GPL-3.0-or-later
"""Blocks of a device that is served over NBD at a unix socket: its size, and a range of it from and to a file.

The tools of libnbd do the work: nbdcopy keeps many requests in flight, over several connections where the server allows it.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from .errors import LabError, shown
from .runner import Runner, must

_URI = re.compile(r"nbd\+unix:///\?socket=(/[\w./%+~-]+)", re.ASCII)
_NEXT = "see that the blkdev runs (cbd_info), and that libnbd-bin and nbdkit are installed"
#: Seconds for a copy: a start, and this many bytes in each second at the worst.
_START, _RATE = 120, 1 << 20


def is_uri(device: str) -> bool:
    """Whether a device is named by an NBD URI."""
    return device.startswith(("nbd:", "nbd+", "nbds:", "nbds+"))


def socket_path(uri: str) -> Path:
    """The unix socket of an NBD URI, as the daemon gives it.

    :raises LabError: for another kind of URI.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise LabError("NBD URI", f"{shown(uri)} names no unix socket", "write nbd+unix:///?socket=/path, as cbd_info shows it")
    return Path(unquote(match.group(1)))


def read_size(runner: Runner, uri: str) -> int:
    """Bytes of the device."""
    text = must(runner, ["nbdinfo", "--size", uri], uri, _NEXT).strip()
    if not (text.isascii() and text.isdigit()):
        raise LabError(uri, f"has no size: {text[:40]!r}")
    return int(text)


def read(runner: Runner, uri: str, length: int, target: Path) -> None:
    """Copies the first ``length`` bytes of the device into a new file."""
    window = ["[", "nbdkit", "--filter=offset", "nbd", f"uri={uri}", "offset=0", f"range={length}", "]"]
    must(runner, ["nbdcopy", "--", *window, str(target)], uri, _NEXT, timeout=_START + length / _RATE)


def write(runner: Runner, source: Path, uri: str) -> None:
    """Copies a file to the beginning of the device, and has the device flush it to its medium."""
    timeout = _START + source.stat().st_size / _RATE
    must(runner, ["nbdcopy", "--flush", "--", str(source), uri], uri, _NEXT, timeout=timeout)
