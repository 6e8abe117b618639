# SPDX-License-Identifier: GPL-3.0-or-later
"""The load on virtual LUNs in short, with engine and library under sanitizers. `make soak-lun` does it in long."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

LOAD = Path(__file__).parent / "lun_load.py"


def test_processes_resize_and_verify_while_engine_and_daemon_die():
    command = [sys.executable, LOAD, "--sanitize", "--processes", "6", "--handles", "4", "--seconds", "6", "--kills", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    outcome = ast.literal_eval(done.stdout.strip().splitlines()[-1])
    print(outcome)
    assert outcome["steps"] > outcome["resizes"] > 0
    assert outcome["recoveries"] > 0
