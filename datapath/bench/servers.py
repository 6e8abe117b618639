# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs while the bench measures: two daemons with a blkdev behind nbdkit and a LUN, a third one with the volume of a pool of
pages behind nbdkit, and nbdkit's memory plugin twice.

Everything listens on a unix socket or the loopback, works on memory, and ends with the ``with`` block.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from .cases import FRONT_END, LUN, PEERS, POOL
from .errors import BenchError, output_of
from .probes import SPAN

_SOURCE = Path(__file__).resolve().parent.parent / "src"
_MEMORY = 256 << 20
_PAGE = 4096
_SPARE = 16  # pages
_POOL = SPAN + SPAN // 512 + (1 + _SPARE) * _PAGE  # a volume of SPAN bytes: its blocks, 8 bytes of index for each, superblock
_START_S, _STOP_S = 60.0, 30.0
_CHUNK = 1 << 20


@contextlib.contextmanager
def running(core: Path) -> Iterator[dict[str, str]]:
    """Starts all of them; gives the URIs by the names that ``cases`` uses. ``core``: folder of the core's build."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxl-lab-bench-", dir="/dev/shm")))
        disk = _disk(folder)
        unix, tcp = PEERS
        path, port = folder / "nbd.sock", str(_free_port())
        ways = {
            unix: (["--unix", str(path)], f"nbd+unix:///?socket={path}"),
            tcp: (["--ipaddr", "127.0.0.1", "--port", port], f"nbd://127.0.0.1:{port}"),
        }
        env = {**os.environ, "PYTHONPATH": str(_SOURCE), "CXL_CORE_LIBRARY": str(core / "libcxl_core.so")}
        uris = dict(stack.enter_context(_daemons(folder, env, disk)))
        uris[POOL] = stack.enter_context(_pool(folder, env))
        for name, (listen, uri) in ways.items():
            stack.enter_context(_memory(folder, name, listen))
            uris[name] = uri
        for name in (POOL, *PEERS):
            output_of(["nbdcopy", str(disk), uris[name]], "see what else runs here")
        yield uris


def _disk(folder: Path) -> Path:
    """Every device holds these bytes: what was never written would be answered without being read."""
    disk, chunk = folder / "disk", random.Random(1).randbytes(_CHUNK)
    with disk.open("xb") as file:
        for _ in range(SPAN // _CHUNK):
            file.write(chunk)
    return disk


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _process(
    name: str, command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended gently, then by force."""
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env)
        except FileNotFoundError:
            raise BenchError(name, f"{command[0]} is not installed", "run: scripts/bootstrap test") from None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _memory(folder: Path, name: str, listen: list[str]) -> Iterator[None]:
    """nbdkit with its memory plugin; its pid file says that it accepts."""
    pid, log = folder / f"{name}.pid", folder / f"{name}.log"
    command = ["nbdkit", "--foreground", "--pidfile", str(pid), *listen, "memory", str(SPAN)]
    with _process(name, command, log) as process:
        _await(name, process, log, pid.exists)
        yield


@contextlib.contextmanager
def _daemons(folder: Path, env: Mapping[str, str], disk: Path) -> Iterator[dict[str, str]]:
    """A file of node1 as a blkdev of node2, and another one as a LUN, made with the commands that a user has."""
    memory, flash = _file(folder / "pool0", _MEMORY), folder / "flash"
    shutil.copyfile(disk, flash)
    with contextlib.ExitStack() as stack:
        for node in ("node1", "node2"):
            stack.enter_context(_daemon(folder, node, env))
        _cli(folder, env, "node1", "cbd", "transport", "format", memory, "pool0", "--coherence", "hardware")
        for node in ("node1", "node2"):
            _cli(folder, env, node, "cbd", "transport", "register", memory)
        _cli(folder, env, "node1", "cbd", "backend", "start", "pool0", str(disk))
        started = _cli(folder, env, "node2", "cbd", "blkdev", "start", "pool0", "0", "--frontend", "nbdkit", "--json")
        _cli(folder, env, "node1", "lun", "create", str(flash), "flash")
        yield {FRONT_END: str(json.loads(started)["device"]), LUN: str(folder / "node1" / "lun.sock" / "flash")}


@contextlib.contextmanager
def _pool(folder: Path, env: Mapping[str, str]) -> Iterator[str]:
    """The volume of a pool of node3; returns its URI. Each write is stable when it ends: that is part of what it is."""
    memory = _file(folder / "pages", _POOL)
    with _daemon(folder, "node3", env):
        _cli(folder, env, "node3", "kmem-blk", "pool", "format", memory, "kmem", "--spare", str(_SPARE))
        _cli(folder, env, "node3", "kmem-blk", "pool", "start", memory)
        started = _cli(folder, env, "node3", "kmem-blk", "volume", "start", "kmem", "--frontend", "nbdkit", "--json")
        yield str(json.loads(started)["volume"]["device"])


def _file(path: Path, size: int) -> str:
    path.touch(mode=0o600)
    os.truncate(path, size)
    return str(path)


@contextlib.contextmanager
def _daemon(folder: Path, node: str, env: Mapping[str, str]) -> Iterator[None]:
    log = folder / f"{node}.log"
    options = ["--runtime", str(folder / node), "--state", str(folder / f"{node}.state"), "--host-name", node]
    command = [sys.executable, "-P", "-m", "cxl_datapath.daemon", *options]
    with _process(node, command, log, env) as process:
        _await(node, process, log, lambda: _answers(folder / node / "control.sock"))
        yield


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _cli(folder: Path, env: Mapping[str, str], node: str, *words: str) -> str:
    command = [sys.executable, "-P", "-m", "cxl_datapath.cli", "--runtime", str(folder / node), *words]
    guides = {"lun": "cxlflash", "kmem-blk": "kmem_blk"}
    return output_of(command, f"see docs/{guides.get(words[0], 'cbd')}.md", env=env)


def _await(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            said = log.read_text(errors="replace").strip().splitlines()
            raise BenchError(name, f"did not come up: {said[-1] if said else 'it said nothing'}", "see what else runs here")
        time.sleep(0.02)
