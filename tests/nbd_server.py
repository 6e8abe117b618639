# SPDX-License-Identifier: GPL-3.0-or-later
"""A file served over NBD at a unix socket."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serve(file: Path, socket: Path) -> Iterator[None]:
    """Runs until the end of the ``with`` statement; nbdkit goes with the test process, whatever happens to that."""
    ready = socket.with_suffix(".pid")
    command = ["nbdkit", "--foreground", "--exit-with-parent", "--unix", str(socket), "--pidfile", str(ready), "file", str(file)]
    with subprocess.Popen(command) as server:
        try:
            while not ready.exists():
                assert server.poll() is None, "nbdkit ended"
                time.sleep(0.01)
            yield
        finally:
            server.terminate()
