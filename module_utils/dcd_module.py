# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules of the fabric manager have in common: their options, and the manager of a lab under its lock."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Iterator, Mapping

from .cxl_lab.dcd.claims import PROGRAM, Claims
from .cxl_lab.dcd.journal import Journal
from .cxl_lab.dcd.manager import Manager
from .cxl_lab.dcd.monitor import Monitor, VirshMonitor
from .cxl_lab.errors import LabError
from .cxl_lab.locking import locked
from .cxl_lab.names import check_name
from .cxl_lab.runner import HostRunner, Runner
from .cxl_lab.topology.plan import domain_name

#: The options that name a lab's fabric manager.
OPTIONS: dict[str, Any] = {
    "lab": {"type": "str", "required": True},
    "uri": {"type": "str", "default": "qemu:///system"},
    "state_dir": {"type": "path", "default": "/var/lib/cxl-lab-dcd"},
    "state_files": {"type": "dict", "default": {}},
    "program": {"type": "path", "default": PROGRAM},
}


def monitor_of(runner: Runner, params: Mapping[str, Any], host: str) -> Monitor:
    """The running QEMU of a host of the lab."""
    return VirshMonitor(runner, params["uri"], domain_name(params["lab"], check_name(host, "host")), host)


@contextlib.contextmanager
def manager(params: Mapping[str, Any]) -> Iterator[Manager]:
    """The lab's fabric manager; nobody else works with its journal meanwhile.

    :raises LabError: for a name or a folder that cannot be.
    """
    folder = Path(params["state_dir"]) / check_name(params["lab"], "lab")
    runner = HostRunner()
    claims = {
        check_name(device, "device"): Claims(runner, str(path), params["program"])
        for device, path in params["state_files"].items()
    }
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(Journal.lock_path(folder)))
        except OSError as error:
            raise LabError(str(folder), f"cannot be used: {error.strerror}", "run as root") from error
        yield Manager(Journal(folder), lambda host: monitor_of(runner, params, host), claims, runner)
