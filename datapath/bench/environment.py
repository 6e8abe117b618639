# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the figures come from: machine, load, programs, commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_VERSIONS = {
    "nbdkit": ["nbdkit", "--version"],
    "libnbd": ["nbdinfo", "--version"],
    "fio": ["fio", "--version"],
    "qemu": ["qemu-system-x86_64", "--version"],
}
_COHERENCE = "hardware (the core flushes nothing); rows _flushed: software"


def commit() -> str:
    """The commit of this checkout; "-dirty" is behind it when files differ from it."""
    return _first_line(["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--exclude=*"]) or "unknown"


def observe(runs: int, seconds: float) -> dict[str, Any]:
    """Facts about this machine before the first run."""
    processor = Path("/proc/cpuinfo").read_text(errors="replace")
    model = re.search(r"^model name\s*:\s*(.+)$", processor, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", processor, re.MULTILINE)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": model[1].strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "hypervisor": bool(flags and "hypervisor" in flags[1].split()),
        "kernel": platform.release(),
        "coherence": _COHERENCE,
        "load_before": round(os.getloadavg()[0], 2),
        "nice": os.nice(0),
        "runs": runs,
        "seconds": seconds,
        "versions": {name: _version(argv) for name, argv in _VERSIONS.items()} | {"python": platform.python_version()},
    }


def _version(argv: list[str]) -> str:
    found = re.search(r"\d+(\.\d+)+", _first_line(argv))
    return found[0] if found else "not installed"


def _first_line(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""
