# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows that a long task is alive, and what it does: one line every few seconds, after the first two."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_progress
type: aggregate
short_description: Progress of long tasks
description:
  - Prints the seconds that a task has taken so far, and the line that a module of this collection left about what it is doing.
options:
  interval:
    description: Seconds between two lines on a terminal; into a pipe, five times as long.
    type: float
    default: 2.0
    env: [{name: CXL_LAB_PROGRESS_INTERVAL}]
    ini: [{section: lab_progress, key: interval}]
"""

import sys
import threading
import time
from pathlib import Path

from ansible.plugins.callback import CallbackBase

PROGRESS_FILE = Path("/run/cxl-lab/progress")


class CallbackModule(CallbackBase):
    """One thread that wakes up now and then while the playbook runs."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "lab_progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._task = ""
        self._began = self._began_wall = 0.0
        self._stop = threading.Event()

    def v2_playbook_on_start(self, playbook):
        interval = self.get_option("interval") * (1 if sys.stdout.isatty() else 5)
        threading.Thread(target=self._watch, args=(interval,), daemon=True).start()

    def v2_playbook_on_task_start(self, task, is_conditional):
        self._task, self._began, self._began_wall = task.get_name(), time.monotonic(), time.time()

    def v2_playbook_on_stats(self, stats):
        self._stop.set()

    def _watch(self, interval):
        while not self._stop.wait(interval):
            elapsed = time.monotonic() - self._began
            if self._task and elapsed >= interval:
                self._display.display(f"  ... {elapsed:3.0f} s  {self._detail()}", color="dark gray")

    def _detail(self):
        """What a module says of itself, when it said it during this task."""
        try:
            if PROGRESS_FILE.stat().st_mtime >= self._began_wall:
                return PROGRESS_FILE.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            pass
        return self._task
