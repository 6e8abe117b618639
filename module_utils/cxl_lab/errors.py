# SPDX-License-Identifier: GPL-3.0-or-later
"""The one exception type of the modules."""

from __future__ import annotations

from typing import Any, Sequence


def shown(value: object) -> str:
    """How a message shows a value of a user: short, and without an error of its own for what Python will not print."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__}>"
    return text if len(text) <= 100 else f"{text[:97]}..."


class LabError(Exception):
    """Something that the user must hear about: which object, what is wrong, what to do next.

    :param subject: the object, by the name that the user gave it ("region for serial 0xc0de0001", "host node1").
    :param problem: what is wrong, without a full stop.
    :param next_step: what to do about it, as an imperative.
    :param cmd: the command that failed, if one did; rc and stderr belong to it.
    :param observed: the last state that was seen, for a person to look at.
    :ivar changed: whether something had been changed already when it went wrong.
    """

    changed = False

    def __init__(
        self,
        subject: str,
        problem: str,
        next_step: str = "",
        *,
        cmd: Sequence[str] | None = None,
        rc: int | None = None,
        stderr: str | None = None,
        observed: Any = None,
    ) -> None:
        self.subject = subject
        self.problem = problem
        self.next_step = next_step
        self.cmd = list(cmd) if cmd is not None else None
        self.rc = rc
        self.stderr = stderr
        self.observed = observed
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.subject}: {self.problem}"
        return f"{text}; {self.next_step}" if self.next_step else text

    def details(self) -> dict[str, Any]:
        """The facts that go beside the message into a module's result; only those that are known."""
        facts = {"cmd": self.cmd, "rc": self.rc, "stderr": self.stderr, "observed": self.observed}
        known = {name: value for name, value in facts.items() if value is not None}
        return {**known, "changed": True} if self.changed else known


def refuse_start(subject: str, problems: Sequence[str]) -> None:
    """Tells all that speaks against a start at once.

    :raises LabError: unless there is nothing.
    """
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise LabError(subject, f"{len(problems)} problem(s) before the start{listed}", observed=list(problems))
