# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole hosts for tests: a real daemon with its own runtime and state folder, asked through the real client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxl_datapath.client import Client
from cxl_datapath.errors import Code, DatapathError

PATIENCE_S = 120.0  # the longest that anything here may take on a busy machine


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`; fails the test after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)
    return value


class Host:
    """One daemon. `start` and `stop` as often as a test likes; the state folder stays."""

    def __init__(self, folder: Path, name: str, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.options = options  # of the daemon, beside those that every host has
        self.name = name
        self.runtime = folder / "run"
        self.state = folder / "state"
        self.socket = self.runtime / "control.sock"
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        options = ["--runtime", str(self.runtime), "--state", str(self.state), "--host-name", self.name]
        return [sys.executable, "-P", "-m", "cxl_datapath.daemon", *options, *self.options]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._answers, f"{self.name} answers: {self.log.read_text()}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            return bool(self.call("hello")["pid"] == self.pid)
        except DatapathError:
            return False

    def stop(self) -> None:
        """SIGTERM; the daemon must end by itself, with status 0."""
        if self._process is not None:
            self._process.terminate()
            status = self._process.wait(PATIENCE_S + 30)
            self._process = None
            assert status == 0, self.log.read_text()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, method: str, **params: Any) -> Any:
        with Client(self.runtime) as client:
            return client.call(method, **params)

    def refuse(self, expected: Code, method: str, **params: Any) -> DatapathError:
        """The error of a call that must fail with this code."""
        try:
            answer = self.call(method, **params)
        except DatapathError as error:
            assert error.code == expected, error
            return error
        raise AssertionError(f"{method} should have failed with {expected}: {answer}")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "cxl_datapath.cli", "--runtime", str(self.runtime), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def worker(self, kind: str, transport: str, number: int) -> dict[str, Any]:
        """The supervised worker of this host's backend or blkdev."""
        rows = self.call(f"cbd.{kind}.list", transport=transport)
        return next(row["worker"] for row in rows if row["id"] == number and "worker" in row)

    def kill_worker(self, kind: str, transport: str, number: int) -> int:
        pid = self.worker(kind, transport, number)["pid"]
        os.kill(pid, signal.SIGKILL)
        return int(pid)
