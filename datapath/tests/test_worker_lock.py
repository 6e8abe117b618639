# SPDX-License-Identifier: GPL-3.0-or-later
"""Who holds the lock of a backend or blkdev, and when its holder is made to go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import wait_until
from lab import needs_nbd, running
from mishaps import halt
from nbd_client import NbdClient

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.workers import lock

pytestmark = needs_nbd


class Waiting:
    """A link on which no command comes."""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


@contextlib.contextmanager
def server(folder: Path, module: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """nbdkit with the lock, as a child of `python -m <module>`, and with a client that stays; the parent and the server's pid."""
    (folder / f"{module}.py").parent.mkdir(exist_ok=True)
    pid_file, socket = folder / "pid", folder / "s"
    command = ["nbdkit", "--foreground", "--unix", str(socket), "--pidfile", str(pid_file), "memory", "1M"]
    *package, name = module.split(".")
    place = folder.joinpath(*package)
    place.mkdir(exist_ok=True)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (place / f"{name}.py").write_text(f"import subprocess\nsubprocess.run({command!r}, close_fds=False)\n")
    parent = subprocess.Popen([sys.executable, "-m", module], cwd=folder, pass_fds=(fd,), env={**os.environ, "PYTHONPATH": "."})
    os.close(fd)
    wait_until(pid_file.exists, "the server runs")
    pid = int(pid_file.read_text())
    try:
        with NbdClient(socket):
            yield parent, pid
    finally:
        for victim in (parent.pid, pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        parent.wait()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("k")


def test_the_file_of_what_was_stopped_goes_but_not_under_a_process_that_holds_it(folder: Path) -> None:
    path = lock.lock_file(folder, "blkdev", "0-1", 3)
    held = lock.hold(Waiting(), path, "blkdev 3")  # type: ignore[arg-type]
    lock.remove_lock_file(path)
    assert path.name == "blkdev-0-1-3.lock" and path.exists()
    os.close(held)
    lock.remove_lock_file(path)
    assert not path.exists()
    lock.remove_lock_file(path)


def test_who_waited_for_a_file_that_was_removed_holds_the_one_that_is_there(folder: Path) -> None:
    path = folder / "lock"
    held = lock.hold(Waiting(), path, "blkdev 0")  # type: ignore[arg-type]

    class Removing(Waiting):
        def wait(self, seconds: float) -> None:
            path.unlink()
            os.close(held)

    fd = lock.hold(Removing(), path, "blkdev 0")  # type: ignore[arg-type]
    assert os.path.samestat(os.fstat(fd), path.stat())
    os.close(fd)


def test_a_server_whose_worker_is_gone_goes_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", float("inf"))
    monkeypatch.setattr(lock, "EVICT_S", 10.0)
    with server(folder, "cxl_datapath.worker") as (parent, pid):
        parent.kill()
        parent.wait()
        os.close(lock.hold(Waiting(), folder / "lock", "blkdev 0", folder / "pid"))  # type: ignore[arg-type]
        assert not running(pid)


def test_a_server_with_its_worker_is_given_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", float("inf"))
    monkeypatch.setattr(lock, "EVICT_S", 0.5)
    with server(folder, "cxl_datapath.worker") as (_, pid):
        with pytest.raises(DatapathError) as caught:
            lock.hold(Waiting(), folder / "lock", "blkdev 0", folder / "pid")  # type: ignore[arg-type]
        assert caught.value.code == Code.BUSY
        assert running(pid)


def test_a_server_that_hangs_with_its_worker_goes_after_that_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.2)
    with server(folder, "cxl_datapath.worker") as (parent, pid):
        halt(parent.pid)
        with contextlib.suppress(DatapathError):  # the stopped parent still has the lock
            monkeypatch.setattr(lock, "EVICT_S", 1.0)
            lock.hold(Waiting(), folder / "lock", "blkdev 0", folder / "pid")  # type: ignore[arg-type]
        wait_until(lambda: not running(pid), "the server is gone")
