# SPDX-License-Identifier: GPL-3.0-or-later
"""What a kernel tells of CXL while something happens.

The trace is an instance of its own, so that nobody else's tracing is disturbed.
"""

from __future__ import annotations

import contextlib
from typing import Iterator

from .errors import LabError
from .runner import Runner, must

_TRACING = "/sys/kernel/tracing"
_INSTANCES = f"{_TRACING}/instances"
_SUBJECT = "kernel trace"


class Trace:
    """A running trace."""

    def __init__(self, runner: Runner, folder: str) -> None:
        self._runner = runner
        self._folder = folder

    def text(self) -> str:
        """What was told since it began."""
        return must(self._runner, ["cat", f"{self._folder}/trace"], _SUBJECT)


@contextlib.contextmanager
def tracing(runner: Runner, name: str) -> Iterator[Trace]:
    """Traces the events of the CXL drivers, and those of PCI errors where the kernel has them.

    :param name: of the instance; two at one time must not share one.
    :raises LabError: where the kernel traces no CXL events.
    """
    folder = f"{_INSTANCES}/{name}"
    if runner.run(["test", "-d", _INSTANCES]).rc != 0:
        # A small system leaves that to whoever wants to trace.
        must(runner, ["mount", "-t", "tracefs", "tracefs", _TRACING], _SUBJECT, "take a kernel with CONFIG_TRACING")
    must(runner, ["mkdir", "-p", folder], _SUBJECT)
    try:
        must(runner, ["tee", f"{folder}/trace"], _SUBJECT, stdin="\n")
        if runner.run(["tee", f"{folder}/events/cxl/enable"], stdin="1\n").rc != 0:
            raise LabError(_SUBJECT, "this kernel has no events of CXL", "load the module cxl_core, or take another kernel")
        runner.run(["tee", f"{folder}/events/ras/aer_event/enable"], stdin="1\n")
        yield Trace(runner, folder)
    finally:
        runner.run(["tee", f"{folder}/events/enable"], stdin="0\n")
        runner.run(["rmdir", folder])
