# SPDX-License-Identifier: GPL-3.0-or-later
"""Real daemons that share a file, each as one host."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

DATAPATH = Path(__file__).resolve().parents[1] / "datapath"
MIB = 1 << 20

needs_daemon = pytest.mark.skipif(
    sys.version_info < (3, 11) or not shutil.which("cmake"), reason="the daemon needs Python 3.11 and a build of its C core"
)


class RealLab:
    """``hosts`` by name; ``memory`` is a file that they share, ``folder`` a place for disks."""

    def __init__(self, memory: str, folder: Path) -> None:
        self.memory = memory
        self.folder = folder
        self.hosts: dict[str, Any] = {}

    def disk(self, name: str, size: int = 8 * MIB) -> str:
        """The path of a file that is there."""
        path = self.folder / name
        path.touch()
        os.truncate(path, size)
        return str(path)

    def runtime(self, host: str) -> str:
        return str(self.hosts[host].runtime)


@contextmanager
def real_lab(*names: str) -> Iterator[RealLab]:
    """Starts a daemon for each name, in this order; ends them the other way round, which must end cleanly."""
    sys.path[:0] = [str(DATAPATH / "src"), str(DATAPATH / "tests")]
    from core_build import build_library
    from hosts import Host

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("CXL_CORE_LIBRARY", os.environ.get("CXL_CORE_LIBRARY") or str(build_library()))
        patch.setenv("PYTHONPATH", str(DATAPATH / "src"), prepend=os.pathsep)
        # Short on purpose: a unix socket's path has 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxlt-", ignore_cleanup_errors=True)))
        memory = stack.enter_context(tempfile.NamedTemporaryFile(prefix="cxl-test-", dir="/dev/shm"))
        memory.truncate(64 * MIB)
        lab = RealLab(memory.name, folder)
        for name in names:
            (folder / name).mkdir()
            host = lab.hosts[name] = Host(folder / name, name)
            stack.callback(host.kill)
            host.start()
        yield lab
        for host in reversed(lab.hosts.values()):
            host.stop()
