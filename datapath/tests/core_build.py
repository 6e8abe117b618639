# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds of the C core with its test programs, one folder per kind of sanitizer, kept between runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
from functools import cache
from pathlib import Path

DATAPATH = Path(__file__).resolve().parent.parent


@cache
def build(sanitize: str = "") -> Path:
    """Brings the build with these sanitizers ("address,undefined", "thread", "" for none) up to date; returns its folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cxl-datapath-tests"
    folder = root / f"programs-{sanitize.replace(',', '-') or 'plain'}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", DATAPATH, "-B", folder, "-DCXL_TESTS=ON", f"-DCXL_SANITIZE={sanitize}"],
            ["cmake", "--build", folder],
        ):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder
