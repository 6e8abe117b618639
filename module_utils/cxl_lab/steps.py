# SPDX-License-Identifier: GPL-3.0-or-later
"""A step of a plan: a command and what it does for the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from .runner import Runner, must


@dataclass(frozen=True)
class Step:
    """``what`` is a phrase in the imperative ("create a pmem region over mem1"), ``argv`` the command that does it, ``stdin`` its
    input."""

    what: str
    argv: tuple[str, ...]
    stdin: str = ""


def run_steps(runner: Runner, steps: Sequence[Step], subject: str, next_step: str = "") -> None:
    """Runs the steps in order and stops at the first that fails.

    :raises LabError: names ``subject``; carries the command.
    """
    for step in steps:
        must(runner, step.argv, subject, next_step, stdin=step.stdin)


def phrases(steps: Sequence[Step]) -> list[str]:
    """What a module reports as ``steps``."""
    return [step.what for step in steps]
