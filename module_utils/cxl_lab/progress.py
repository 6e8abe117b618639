# SPDX-License-Identifier: GPL-3.0-or-later
"""What a long-running module is doing right now, in one line that the progress display of the playbook shows.

A module cannot speak to the user before it ends. It writes a line here; ``plugins/callback/lab_progress.py`` shows it.
"""

from __future__ import annotations

import threading
from pathlib import Path

#: On the machine where the playbook runs; gone after a reboot, like the work that it speaks of.
PROGRESS_FILE = Path("/run/cxl-lab/progress")


def progress(text: str) -> None:
    """Shows one line; never fails, for progress is no reason to stop."""
    try:
        PROGRESS_FILE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # It goes to a terminal, and parts of it come from guests.
        line = "".join(char if char.isprintable() else " " for char in text[:200])
        # Whole lines only: several threads may have something to say.
        fresh = PROGRESS_FILE.with_name(f"progress.{threading.get_native_id()}")
        fresh.write_text(line, encoding="utf-8")
        fresh.replace(PROGRESS_FILE)
    except OSError:
        pass
