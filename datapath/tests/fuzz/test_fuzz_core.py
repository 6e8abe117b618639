# SPDX-License-Identifier: GPL-3.0-or-later
"""The corpora of the C core's fuzz targets (core/fuzz), replayed under ASan and UBSan. `make fuzz` makes them grow."""

from __future__ import annotations

import subprocess

import pytest
from core_build import CORPUS, DATAPATH, build

TARGETS = sorted(source.stem.removeprefix("fuzz_") for source in (DATAPATH / "core" / "fuzz").glob("fuzz_*.c"))


def test_every_target_has_a_corpus() -> None:
    assert sorted(folder.name for folder in CORPUS.iterdir()) == TARGETS
    assert all(any(folder.iterdir()) for folder in CORPUS.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_found_before_is_harmless(target: str) -> None:
    inputs = sorted((CORPUS / target).iterdir())
    program = build("address,undefined") / f"fuzz_{target}"
    done = subprocess.run([program, *inputs], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(inputs)} inputs\n"
