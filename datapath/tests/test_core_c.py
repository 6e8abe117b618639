# SPDX-License-Identifier: GPL-3.0-or-later
"""The C core's own test programs (core/tests), under AddressSanitizer and UBSan, and those with threads under ThreadSanitizer."""

from __future__ import annotations

import subprocess

import pytest
from core_build import DATAPATH, build

pytestmark = pytest.mark.slow

PROGRAMS = sorted(source.stem for source in (DATAPATH / "core" / "tests").glob("test_*.c"))
_ENGINES = ("ring", "idle", "channel", "engine", "fence", "deaths", "device", "pool", "control", "order", "claim", "pages", "lun")
THREADED = [f"test_{name}" for name in _ENGINES]
SKIPPED = 77


def run(program: str, sanitize: str) -> None:
    done = subprocess.run([build(sanitize) / program], check=False, capture_output=True, text=True, timeout=300)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]


def test_there_are_programs() -> None:
    assert set(THREADED) < set(PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS)
def test_memory_and_behaviour(program: str) -> None:
    run(program, "address,undefined")


@pytest.mark.parametrize("program", THREADED)
def test_data_races(program: str) -> None:
    run(program, "thread")
