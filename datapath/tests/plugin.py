# SPDX-License-Identifier: GPL-3.0-or-later
"""The nbdkit plugin in a real nbdkit, and a backend in a process of its own, for tests with real NBD clients."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from core_build import build

DEPTH = 16
SLOT = 65536
CHANNEL = 4096 + 2 * 4096 + 2 * DEPTH * SLOT
CHANNELS = 2
SIZE = 24 << 20
EPOCH = 5
WAIT_S = 60  # only a hang takes as long


@dataclass
class Setup:
    """A transport's memory, a backing file, and how both are used.

    Each generation of a backend has rings that nobody used before: on the other half of the channels, with the next epoch.
    """

    memory: Path
    backing: Path
    socket: Path
    coherence: str = "hardware"
    features: int = 1
    read_only: int = 0
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.socket}"

    def channels(self, generation: int = 0) -> list[str]:
        first = generation % 2 * CHANNELS
        return [f"{4096 + (first + i) * CHANNEL}:{EPOCH + generation}" for i in range(CHANNELS)]

    def nbdkit_command(self) -> list[str]:
        parameters: dict[str, object] = {
            "memory": self.memory,
            "coherence": self.coherence,
            "features": self.features,
            "capacity": SIZE,
            "block_size": 512,
            "ring_depth": DEPTH,
            "slot_bytes": SLOT,
            "read_only": self.read_only,
            "discard": 1,
            "write_zeroes": 1,
            **self.parameters,
        }
        plugin = build() / "cxl-cbd-nbdkit-plugin.so"
        given = [f"{key}={value}" for key, value in parameters.items() if value is not None]
        channels = [] if "channel" in self.parameters else [f"channel={channel}" for channel in self.channels()]
        return ["nbdkit", "-f", "-U", str(self.socket), str(plugin), *given, *channels]

    def start_backend(self, generation: int = 0) -> subprocess.Popen[str]:
        """A backend that serves the channels of this generation when this returns."""
        numbers = [str(n) for n in (self.features, DEPTH, SLOT)]
        command = [str(build() / "serve_file"), str(self.memory), self.coherence, *numbers]
        command += [str(self.backing), "512", str(self.read_only), *self.channels(generation)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline() == "ready\n"
        return process

    @contextlib.contextmanager
    def backend(self, generation: int = 0) -> Iterator[None]:
        with self.start_backend(generation) as process:
            yield
            assert process.stdin
            process.stdin.close()
            assert process.wait(WAIT_S) == 0

    @contextlib.contextmanager
    def nbdkit(self, pass_fds: Sequence[int] = ()) -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(self.nbdkit_command(), pass_fds=pass_fds) as process:
            try:
                self._await_socket(process)
                yield process
            finally:
                if process.poll() is None:
                    process.terminate()
            assert process.wait(WAIT_S) == 0

    def _await_socket(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
                probe.connect(str(self.socket))
                return
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)


def make_setup(tmp_path: Path, shared_file: Callable[[int], Path]) -> Setup:
    """Skips the test where a tool is missing."""
    for tool in ("nbdkit", "nbdinfo", "nbdcopy", "nbdsh", "qemu-img"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (packages nbdkit, libnbd-bin, python3-libnbd, qemu-utils)")
    backing = tmp_path / "backing"
    backing.write_bytes(random.Random(1).randbytes(SIZE))
    return Setup(shared_file(4096 + 2 * CHANNELS * CHANNEL), backing, tmp_path / "socket")


# nbdsh takes the first python3 of PATH, and its module belongs to the system's.
ENV = {**os.environ, "PATH": os.pathsep.join(["/usr/bin", os.environ.get("PATH", "")])}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S, env=ENV)
    assert done.returncode == 0, done.stderr
    return done.stdout


def nbdsh(setup: Setup, script: str) -> str:
    return run("nbdsh", "-u", setup.uri, "-c", script)
