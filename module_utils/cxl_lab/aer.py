# SPDX-License-Identifier: GPL-3.0-or-later
"""Advanced Error Reporting of a PCI function: what it may tell its host about."""

from __future__ import annotations

import re

from .errors import LabError
from .runner import Runner, must

_FUNCTION = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
#: As setpci writes it, REGISTER=VALUE:MASK. The masks of uncorrectable and of correctable errors, and the bit of each for
#: internal errors, as which those of CXL come (PCIe 6.0, 7.8.4.3 and 7.8.4.6; CXL 3.1, 12.2).
_TELL = ("ECAP_AER+08.l=0:00400000", "ECAP_AER+14.l=0:00004000")


def tell_internal_errors(runner: Runner, function: str, subject: str) -> None:
    """Lets a function report internal errors. They are masked after a reset, and Linux 6.12 leaves them so.

    :raises LabError: when it is no PCI function, or without setpci.
    """
    if not _FUNCTION.fullmatch(function):
        raise LabError(subject, f"{function!r:.40} is no PCI function", "look at `cxl list -M` on its host")
    must(runner, ["setpci", "-s", function, *_TELL], subject, "install pciutils on its host")
