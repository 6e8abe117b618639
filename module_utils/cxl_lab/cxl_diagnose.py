# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a memdev or a region is not there: what the kernel log and PCI know, turned into a next step."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Sequence

from .cxl_list import Memdev, format_serial
from .errors import LabError
from .runner import Runner

#: PCI class 05 (memory), subclass 02 (CXL), programming interface 10 (CXL 2.0 or newer).
_PCI_CLASS_CXL_MEMORY = "0x050210"
_ABOUT_CXL = re.compile(r"\bcxl_\w+ |\bnd_\w+ |CPU cache state|Range register")
_KEPT_LINES = 12

HIDE_HYPERVISOR = (
    "hide the hypervisor bit of the guest's CPU (libvirt: <feature policy='disable' name='hypervisor'/>) and restart it"
)
COLD_START = "shut the guest down and start it again: a warm reboot with a region leaves the memdev half configured"
IN_TURN = (
    "Linux fills the decoders of a bridge, a switch and a memdev by ascending address, and {} is at a higher one: destroy that, "
    "make this region first (in cxl_memory_regions: name it first), then the other one again"
)
SIZE_RULE = "make the device n x 256 MiB large; the kernel log beside this says more"


def kernel_log(runner: Runner) -> list[str]:
    """The last lines of the kernel log that are about CXL; empty where the log cannot be read."""
    done = runner.run(["dmesg"])
    lines = done.stdout.splitlines() if done.rc == 0 else []
    return [line for line in lines if _ABOUT_CXL.search(line)][-_KEPT_LINES:]


def idle_pci_functions(pci_devices: Path = Path("/sys/bus/pci/devices")) -> list[str]:
    """Addresses of the PCI functions of class "CXL memory" under which no memdev exists."""
    functions = [path for path in sorted(pci_devices.glob("*")) if _read(path / "class") == _PCI_CLASS_CXL_MEMORY]
    return [path.name for path in functions if not any(path.glob("mem[0-9]*"))]


def explain_missing_memdev(serial: int, memdevs: Sequence[Memdev], idle: Sequence[str], log: Sequence[str]) -> LabError:
    """The error for a memdev that cannot be used: not listed at all, or listed and not accepted by the kernel."""
    subject = f"memdev {format_serial(serial)}"
    observed = [f"{memdev.name} {format_serial(memdev.serial)}" for memdev in memdevs]
    stderr = "\n".join(log) or None
    found = next((memdev for memdev in memdevs if memdev.serial == serial), None)
    if found:
        problem = f"{found.name} is there, but the kernel did not take it into the CXL hierarchy"
        step = COLD_START if _mentions(log, "outside platform defined", "failed probe") else SIZE_RULE
        return LabError(subject, problem, step, stderr=stderr, observed=observed)
    if idle:
        problem = f"no memdev carries this serial number, and {', '.join(idle)} on PCI brought up no memdev"
        return LabError(subject, problem, SIZE_RULE, stderr=stderr, observed=observed)
    step = "compare with `cxl list -M -u`" if memdevs else "attach the memdev to this host; `cxl list -M -i` is empty"
    return LabError(subject, "no memdev carries this serial number", step, stderr=stderr, observed=observed)


def explain_failed_create(error: LabError, log: Sequence[str], above: Sequence[str] = ()) -> LabError:
    """The same failure of ``cxl create-region`` with a cause and a next step where the kernel log tells them.

    :param above: regions at higher addresses than the window that was to take the region.
    """
    step = error.next_step
    # Its last line only counts what was made.
    causes = [line.partition(": create_region: ")[2] for line in (error.stderr or "").splitlines()]
    problem = next(filter(None, causes), error.problem)
    if "failed to commit decode" in (error.stderr or "") and _mentions(log, "Failed to synchronize CPU cache state"):
        step = HIDE_HYPERVISOR
    elif _mentions(log, "outside platform defined"):
        step = COLD_START
    elif "failed to set target" in problem and above:
        step = IN_TURN.format(", ".join(above))
    stderr = "\n".join(filter(None, [(error.stderr or "").rstrip(), *log]))
    return LabError(error.subject, problem, step, cmd=error.cmd, rc=error.rc, stderr=stderr, observed=error.observed)


def _mentions(log: Sequence[str], *phrases: str) -> bool:
    return any(phrase in line for line in log for phrase in phrases)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
