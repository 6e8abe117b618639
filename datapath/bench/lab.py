# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of a lab that is up: playbooks/bench.yml takes them on its hosts, here they become rows."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import environment, results
from .cases import LAB_LOADS, LOADS
from .errors import BenchError
from .probes import Sample

_ROOT = Path(__file__).resolve().parents[2]
OURS, PEER = "cbd", "nbd_tcp"  # as the role calls them


def measure(inventory: str, runs: int, seconds: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the playbook, which says itself what it does; returns facts about the lab, and its rows.

    :raises BenchError: when the playbook fails.
    """
    with tempfile.TemporaryDirectory(prefix="cxl-lab-bench-") as folder:
        result = Path(folder) / "result.json"
        asked = {"cxl_bench_runs": runs, "cxl_bench_seconds": seconds, "cxl_bench_result": str(result)}
        playbook = Path(sys.executable).parent / "ansible-playbook"
        command: list[str | Path] = [playbook, "-i", inventory, "-e", json.dumps(asked), "playbooks/bench.yml"]
        code = subprocess.run(command, cwd=_ROOT, check=False, stdout=sys.stderr).returncode
        if code or not result.exists():
            raise BenchError(
                f"lab {inventory}", "was not measured", f"read the message above; is it up? make lab INVENTORY={inventory}"
            )
        said = json.loads(result.read_text(encoding="utf-8"))
    facts = {"inventory": Path(inventory).name, "commit": environment.commit(), "runs": runs, "seconds": seconds}
    return {**facts, "date": datetime.now(UTC).isoformat(timespec="seconds"), **said["facts"]}, rows(said["samples"])


def rows(samples: dict[str, dict[str, list[dict[str, float]]]]) -> list[dict[str, Any]]:
    """One row for each load, from what the module cxl_fio returns."""

    def taken(name: str, device: str) -> list[Sample]:
        return [LOADS[name].sample(run["iops"], run["p99_us"]) for run in samples[name][device]]

    return [results.row(f"lab_{name}", LOADS[name].unit, taken(name, OURS), {PEER: taken(name, PEER)}) for name in LAB_LOADS]
