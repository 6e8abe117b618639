#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fuzzes everything that reads what strangers write: libFuzzer for the C core, hypothesis for the Python, so many seconds each.

    scripts/fuzz.py [--seconds 60] [TARGET ...]      TARGET: backend, queue, channel, control, nbdkit_conf, python

New inputs of libFuzzer go to build/fuzz/<target>, crashes there as crash-*; hypothesis prints the example. Needs
"scripts/bootstrap fuzz" once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "datapath" / "tests"))

from core_build import CORPUS, build_fuzzers

CORE = sorted(folder.name for folder in CORPUS.iterdir())


def fuzz_core(target: str, seconds: int) -> bool:
    """One target, with the kept corpus and what earlier runs added."""
    grown = ROOT / "build" / "fuzz" / target
    grown.mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={seconds}", "-max_len=1024", "-timeout=60", f"-artifact_prefix={grown}/"]
    log = grown.with_suffix(".log")
    with log.open("w") as output:
        done = subprocess.run(
            [build_fuzzers() / f"fuzz_{target}", *limits, grown, CORPUS / target], stderr=output, stdout=output, check=False
        )
    last = next((line for line in reversed(log.read_text().splitlines()) if re.match(r"#\d", line)), "")
    print(f"{target}: {'ok' if done.returncode == 0 else f'FAILED, see {log}'} {' '.join(last.split())}", flush=True)
    return done.returncode == 0


def fuzz_python(seconds: int) -> bool:
    """The hypothesis tests with many examples, again and again until the time is over."""
    command = [sys.executable, "-m", "pytest", "-q", "datapath/tests/fuzz", "tests/module_utils/topology/test_model.py"]
    command += [
        "tests/module_utils/test_sizes.py",
        "tests/module_utils/test_names.py",
        "--deselect",
        "datapath/tests/fuzz/test_fuzz_core.py",
    ]
    deadline, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < deadline or not rounds:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"FUZZ_EXAMPLES": "1000"}, check=False, capture_output=True, text=True
        )
        if done.returncode:
            print(f"python: FAILED\n{done.stdout[-8000:]}", flush=True)
            return False
        rounds += 1
    print(f"python: ok, {rounds} round(s) of 1000 examples for each test", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="fuzzes the C core and the Python formats")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (%(default)s)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*CORE, "python"]))
    options = parser.parse_args()
    if unknown := set(options.targets) - {*CORE, "python"}:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    results = [
        fuzz_python(options.seconds) if target == "python" else fuzz_core(target, options.seconds)
        for target in options.targets or [*CORE, "python"]
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
