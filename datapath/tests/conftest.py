# SPDX-License-Identifier: GPL-3.0-or-later
"""The C core, built once per content; memories in /dev/shm; whole hosts (daemons) for end-to-end tests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

try:
    from hypothesis import settings
except ImportError:  # a host of the lab, which runs the conformance suite of LUNs and nothing else
    settings = None

DATAPATH = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(DATAPATH / "src"), str(DATAPATH / "tests"), str(DATAPATH)]

from core_build import build_library
from hosts import Host
from lab import MEMORY, Lab
from trio import Trio

# The same examples for every change that is judged; new ones in every run of a developer.
examples = int(os.environ.get("FUZZ_EXAMPLES", "100"))  # scripts/fuzz.py wants more
if settings:
    settings.register_profile("datapath", deadline=None, derandomize="CI" in os.environ, max_examples=examples)
    settings.load_profile("datapath")


def pytest_configure(config: pytest.Config) -> None:
    # Before any test module imports the package: worker processes inherit it, too.
    if "CXL_CORE_LIBRARY" not in os.environ and not config.option.collectonly:
        os.environ["CXL_CORE_LIBRARY"] = str(build_library())
    paths = [str(DATAPATH / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)


@pytest.fixture
def shared_file() -> Iterator[Callable[[int], Path]]:
    """Makes files in /dev/shm; they are removed after the test."""
    made: list[Path] = []

    def make(size: int) -> Path:
        fd, name = tempfile.mkstemp(prefix="cxl-test-", dir="/dev/shm")
        os.ftruncate(fd, size)
        os.close(fd)
        made.append(Path(name))
        return made[-1]

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def make_host() -> Iterator[Callable[..., Host]]:
    """Makes and starts daemons; they are stopped after the test, and must stop cleanly."""
    # Short on purpose: a unix socket's path has 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="cxlt-"))
    hosts: list[Host] = []

    def make(name: str, start: bool = True, options: tuple[str, ...] = ()) -> Host:
        (folder / name).mkdir()
        hosts.append(Host(folder / name, name, options))
        if start:
            hosts[-1].start()
        return hosts[-1]

    yield make
    try:
        # Those with blkdevs first: a backend's host that ends first only makes the others wait.
        for host in reversed(hosts):
            host.stop()
    finally:
        for host in hosts:
            host.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def node() -> Iterator[Host]:
    """One daemon for tests that change nothing."""
    folder = Path(tempfile.mkdtemp(prefix="cxlt-"))
    host = Host(folder, "node1")
    host.start()
    yield host
    try:
        host.stop()
    finally:
        host.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lab(shared_file: Callable[[int], Path], tmp_path: Path, make_host: Callable[..., Host]) -> Lab:
    return Lab(shared_file(MEMORY), tmp_path, make_host)


@pytest.fixture
def make_trio(shared_file: Callable[[int], Path], tmp_path: Path, make_host: Callable[..., Host]) -> Callable[..., Trio]:
    return lambda **geometry: Trio(shared_file(MEMORY), tmp_path, make_host, **geometry)


@pytest.fixture
def trio(make_trio: Callable[..., Trio]) -> Trio:
    return make_trio()
