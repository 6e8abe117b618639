# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception type of the bench, and the one place that runs commands."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT_S = 120.0  # beyond the time that a command is asked to take


class BenchError(Exception):
    """Something that the user must hear about: which object, what is wrong, what to do next."""

    def __init__(self, subject: str, problem: str, next_step: str) -> None:
        super().__init__(f"{subject}: {problem}; {next_step}")


def output_of(
    command: Sequence[str | Path], next_step: str, *, timeout: float = TIMEOUT_S, env: Mapping[str, str] | None = None
) -> str:
    """Runs a command that has to succeed; returns its standard output."""
    name = Path(command[0]).name
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout, env=env)
    except FileNotFoundError:
        raise BenchError(name, "is not installed", "run: scripts/bootstrap test") from None
    except subprocess.TimeoutExpired:
        raise BenchError(name, f"did not end within {timeout:.0f} s", next_step) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise BenchError(name, said, next_step)
    return done.stdout
