# SPDX-License-Identifier: GPL-3.0-or-later
"""What a long-running module is doing right now, in one line that the progress display of its playbook shows.

A module cannot speak to the user before it ends. It writes a line into a file that is named after its process, and
``plugins/callback/lab_progress.py`` shows those of the processes that its playbook started: several can run side by side.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

#: On the machine where the playbook runs; gone after a reboot, like the work that it speaks of.
PROGRESS_FOLDER = Path("/run/cxl-lab/progress.d")


def progress(text: str) -> None:
    """Shows one line; never fails, for progress is no reason to stop."""
    try:
        PROGRESS_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        # It goes to a terminal, and parts of it come from guests.
        line = "".join(char if char.isprintable() else " " for char in text[:200])
        file = PROGRESS_FOLDER / str(os.getpid())
        if not file.exists():
            _forget_ended()
        # Whole lines only: several threads may have something to say.
        fresh = file.with_name(f"{file.name}.{threading.get_native_id()}")
        fresh.write_text(line, encoding="utf-8")
        fresh.replace(file)
    except OSError:
        pass


def _forget_ended() -> None:
    """Removes what processes left that are gone."""
    for file in PROGRESS_FOLDER.iterdir():
        if not Path("/proc", file.name.partition(".")[0]).exists():
            file.unlink(missing_ok=True)
