# SPDX-License-Identifier: GPL-3.0-or-later
"""The load on NBD servers, under sanitizers, against a real server."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_build import DATAPATH
from hosts import wait_until
from plugin import WAIT_S

SIZE = 16 << 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("load") / "nbd_load"
    flags = ["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run(["cc", *flags, *sanitize, DATAPATH / "bench" / "nbd_load.c", "-o", path, "-lnbd"], check=True)
    return path


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(bytes(SIZE))
    return path


@contextlib.contextmanager
def served(folder: Path, *arguments: str) -> Iterator[str]:
    """nbdkit at a unix socket; gives its URI."""
    pid = folder / "pid"
    command = ["nbdkit", "--foreground", "--unix", str(folder / "socket"), "--pidfile", str(pid), *arguments]
    with subprocess.Popen(command) as server:
        try:
            wait_until(lambda: pid.exists() or server.poll() is not None, "nbdkit listens")
            yield f"nbd+unix:///?socket={folder}/socket"
        finally:
            server.terminate()


@pytest.fixture
def uri(disk: Path, tmp_path: Path) -> Iterator[str]:
    with served(tmp_path, "file", str(disk)) as made:
        yield made


def load(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, timeout=WAIT_S)


@pytest.mark.parametrize("how", [("read", 4096, 1), ("mix", 512, 32), ("write", 1 << 20, 4)])
def test_requests_are_counted_and_timed(program: Path, uri: str, disk: Path, how: tuple[str, int, int]) -> None:
    op, block, depth = how
    done = load(program, uri, op, str(block), str(depth), "0.2")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["value"] > 0 and 0 < said["p50"] <= said["p99"] and said["samples"] >= depth
    assert (said["params"]["op"], said["params"]["bs"], said["params"]["qd"]) == (op, block, depth)
    assert any(disk.read_bytes()) == (op != "read")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: nbd_load URI"),
        (["{uri}", "erase", "4096", "1", "1"], "erase: is none of read, write, mix"),
        (["{uri}", "read", "0", "1", "1"], "BLOCK_BYTES: is no number"),
        (["{uri}", "read", "4096", "many", "1"], "DEPTH: is no number"),
        (["{uri}", "read", "4096", "1", "nan"], "SECONDS: is no number"),
        (["{uri}", "read", "33554432", "1", "1"], "is smaller than a block"),
        (["nbd+unix:///?socket=/nonexistent", "read", "4096", "1", "1"], "No such file"),
    ],
)
def test_bad_arguments(program: Path, uri: str, arguments: list[str], message: str) -> None:
    done = load(program, *(word.format(uri=uri) for word in arguments))
    assert done.returncode == 1 and message in done.stderr and done.stdout == ""


def test_a_server_that_refuses_is_an_error(program: Path, tmp_path: Path) -> None:
    with served(tmp_path, "--filter=error", "memory", str(SIZE), "error-pread=EIO", "error-pread-rate=100%") as uri:
        done = load(program, uri, "read", "4096", "8", "5")
    assert done.returncode == 1 and "the server answered with an error" in done.stderr
