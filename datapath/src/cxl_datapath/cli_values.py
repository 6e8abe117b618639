# SPDX-License-Identifier: GPL-3.0-or-later
"""Values on a command line: sizes, serial numbers, ids or names; and what the modules of `cxl-datapath` share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

#: (group, verb, method of the daemon, help) -> the parser of the verb
Verb = Callable[[Any, str, str, str], argparse.ArgumentParser]

_PARAMETER = re.compile(r"\b(use|with|or) (force|read_only|shared)\b")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def as_options(text: str) -> str:
    """A message of the daemon, which calls its parameters by their names, with the options that a person gives them by."""
    return _PARAMETER.sub(lambda found: f"{found[1]} --{found[2].replace('_', '-')}", text)


def size(text: str) -> int:
    """Bytes of "4096", "64K", "1M"."""
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 65536 or 64K")
    return int(found[1]) * _UNITS[found[2]]


def number(text: str) -> int:
    """A serial number, decimal or 0x and hexadecimal."""
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}|[0-9]{1,20}", text):
        return int(text, 16 if text.startswith("0x") else 10)
    raise argparse.ArgumentTypeError(f"{text!r} is not a serial number such as 0x91")


def id_or_name(text: str) -> int | str:
    """A number is an id, everything else a name."""
    if re.fullmatch(r"-?[0-9]{16,}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} has too many digits for an id")
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text
