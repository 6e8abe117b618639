# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows that a long task is alive, and what it does: the first line after two seconds, then one every few."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_progress
type: aggregate
short_description: Progress of long tasks
description:
  - Prints the seconds that a task has taken so far, and the line that a module of this collection left about what it is doing.
options:
  interval:
    description: Seconds before the first line of a task, and between two on a terminal; into a pipe, five times as long.
    type: float
    default: 2.0
    env: [{name: CXL_LAB_PROGRESS_INTERVAL}]
    ini: [{section: lab_progress, key: interval}]
"""

import os
import sys
import threading
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase

PROGRESS_FOLDER = Path("/run/cxl-lab/progress.d")


def descends(pid, ancestor, proc=Path("/proc")):
    """Whether a process was started, by whatever way round, by another one; both exist."""
    while pid > 1 and pid != ancestor:
        try:
            pid = int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return False
    return pid == ancestor


def said_below(ancestor):
    """The last line of the modules that a process runs; empty when none of them has said anything."""
    lines = []
    for file in PROGRESS_FOLDER.iterdir() if PROGRESS_FOLDER.is_dir() else ():
        try:
            if file.name.isdecimal() and descends(int(file.name), ancestor):
                lines.append((file.stat().st_mtime, file.read_text(encoding="utf-8", errors="replace").strip()))
        except OSError:
            continue  # it has just ended
    return max(lines)[1] if lines else ""


class CallbackModule(CallbackBase):
    """One thread that wakes up now and then while the playbook runs."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "lab_progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._task = ""
        self._began = self._due = 0.0  # of the task, and when the next line is due
        self._interval = 0.0
        self._stop = threading.Event()

    def set_options(self, *args, **kwargs):
        super().set_options(*args, **kwargs)
        self._interval = self.get_option("interval")

    def v2_playbook_on_start(self, playbook):
        between = self._interval * (1 if sys.stdout.isatty() else 5)
        threading.Thread(target=self._watch, args=(between,), daemon=True).start()

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._began = time.monotonic()
        self._due = self._began + self._interval
        self._task = task.get_name()

    def v2_playbook_on_stats(self, stats):
        self._stop.set()

    def _watch(self, between):
        """A line of a task that begins meanwhile is due an interval later at the earliest: nothing has to wake this up."""
        while not self._stop.wait(min(max(self._due - time.monotonic(), 0.0), self._interval) if self._task else self._interval):
            now = time.monotonic()
            if self._task and now >= self._due:
                self._due = now + between
                self._display.display(
                    f"  ... {now - self._began:3.0f} s  {said_below(os.getpid()) or self._task}", color="dark gray"
                )
