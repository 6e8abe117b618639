# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands to a running QEMU (QMP), and what its errors about dynamic capacity mean."""

from __future__ import annotations

import json
from typing import Any, Mapping, Protocol

from ..errors import LabError
from ..runner import Runner, must

# What QEMU says -> what to do. QEMU has one class for all of these errors.
_NEXT_STEPS = {
    "already accessible": "release that range first, or choose another one",
    "still pending": "the host has not answered yet: make its region (dcd_region) and look at its daemon",
    "release extent with pending": "the host has not answered the offer yet, and only then can it be released",
    "non-existing DPA range": "the host does not hold all of it: see dcd_extent_info",
    "not aligned": "begin and end extents at a multiple of the block size",
    "beyond the region end": "the region is smaller than that: see dcd_extent_info",
    "0 length": "give the extent a size",
    "duplicate or overlapped": "two extents of one request overlap",
    "region id is too large": "the device has fewer regions: see dcd_extent_info",
    "Unable to resolve CXL type 3": "the device has no dynamic capacity or another name",
    "not found": "the machine has no device of this name: compare it with the topology",
    "has not been found": "this QEMU knows no dynamic capacity: 10.0 or later does",
}


class QmpError(LabError):
    """QEMU refused a command; ``said`` is its own sentence."""

    def __init__(self, subject: str, said: str, command: str) -> None:
        self.said = said
        step = next((step for part, step in _NEXT_STEPS.items() if part in said), "")
        super().__init__(subject, f"QEMU refuses {command}: {said}", step)


class Monitor(Protocol):
    """What the fabric manager needs of a running QEMU."""

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any: ...


class VirshMonitor:
    """Reaches the QEMU of a libvirt domain. libvirt owns the monitor and passes each answer on as it is.

    :param host: name of the lab's host, for messages.
    """

    def __init__(self, runner: Runner, uri: str, domain: str, host: str) -> None:
        self._runner = runner
        self._uri = uri
        self._domain = domain
        self._subject = f"host {host}"

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """The command's return value.

        :raises QmpError: when QEMU refuses.
        :raises LabError: when there is no QEMU to ask.
        """
        line = json.dumps({"execute": command, "arguments": dict(arguments)})
        argv = ["virsh", "-q", "-c", self._uri, "qemu-monitor-command", self._domain, line]
        text = must(self._runner, argv, self._subject, "is the machine switched on? see cxl_topology_info, cxl_power")
        return returned(text, self._subject, command)


def returned(text: str, subject: str, command: str) -> Any:
    """The return value in an answer of QEMU.

    :raises QmpError: for an error.
    """
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        raise QmpError(subject, str(answer["error"].get("desc", "without a reason"))[:300], command)
    if not isinstance(answer, dict) or "return" not in answer:
        raise LabError(subject, f"QEMU answered {command} with something unreadable: {text[:200]!r}", "look at QEMU's log")
    return answer["return"]
