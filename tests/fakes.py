# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam of the unit tests: a host whose commands answer from a table, and a way to run a module on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.cxl_lab.runner import Result
from ansible.module_utils.testing import patch_module_args

FIXTURES = Path(__file__).resolve().parent / "fixtures"


class FakeRunner:
    """Answers commands by the longest beginning of their command line that it knows; keeps what was run in ``ran``.

    An answer is a text (standard output), a Result, or a function that is called at that moment; a command that
    nobody taught it is a failure of the test.
    """

    def __init__(self, answers: dict[str, str | Result | Callable[[], str | Result]]) -> None:
        self.answers = answers
        self.ran: list[str] = []

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 120) -> Result:
        line = " ".join(argv)
        self.ran.append(line)
        known = [start for start in self.answers if line.startswith(start)]
        assert known, f"the test does not expect the command {line!r}"
        answer = self.answers[max(known, key=len)]
        made = answer() if callable(answer) else answer
        return made if isinstance(made, Result) else Result(0, made, "")

    def changing(self) -> list[str]:
        """The commands that change the host."""
        return [line for line in self.ran if not line.startswith(("cxl list", "ndctl list", "dmesg"))]


def fixture(name: str) -> Any:
    """A recorded answer, as parsed JSON."""
    return json.loads((FIXTURES / f"{name}.json").read_text(encoding="utf-8"))


def run_module(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, check: bool = False, **args: Any
) -> dict[str, Any]:
    """Runs a module's main() with these arguments; returns the result that it prints, also of a failure."""
    # A module's process has no controller in it, where warnings go to the screen instead of the result; that of the tests may.
    monkeypatch.setattr("ansible.module_utils._internal.is_controller", False)
    # Nor are there warnings of modules that ran before.
    monkeypatch.setattr("ansible.module_utils.common.warnings._global_warnings", {}, raising=False)
    with patch_module_args({**args, "_ansible_check_mode": check, "_ansible_diff": True}), pytest.raises(SystemExit):
        module.main()
    return json.loads(capsys.readouterr().out)
