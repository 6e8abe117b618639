# SPDX-License-Identifier: GPL-3.0-or-later
"""How a blkdev shows itself on its host: ublk, the kernel's nbd client, or an NBD socket.

`auto` is the first of these that the host has. A kernel module that is built but not loaded counts as there: it is loaded.
"""

from __future__ import annotations

from ..errors import Code, DatapathError
from .base import FrontEnd, Target
from .nbd import NbdFrontEnd
from .nbdkit import NbdkitFrontEnd
from .ublk import UblkFrontEnd

KINDS: dict[str, type[FrontEnd]] = {"ublk": UblkFrontEnd, "nbd": NbdFrontEnd, "nbdkit": NbdkitFrontEnd}
CHOICES = ("auto", *KINDS)


def choose(wanted: str) -> tuple[str, type[FrontEnd]]:
    """The front end to use; raises `unsupported` with what is missing."""
    candidates = KINDS if wanted == "auto" else {wanted: KINDS[wanted]}
    reasons = []
    for name, kind in candidates.items():
        reason = kind.missing()
        if not reason:
            return name, kind
        reasons.append(f"{name}: {reason}")
    hint = "install what is missing, or choose front end auto" if wanted != "auto" else "install nbdkit"
    raise DatapathError(Code.UNSUPPORTED, f"front end {wanted}", ", ".join(reasons), hint)


__all__ = ["CHOICES", "FrontEnd", "Target", "choose"]
