# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds of the C core for tests, kept in the user's cache by the content of the sources: any checkout finds them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

DATAPATH = Path(__file__).resolve().parent.parent
CORPUS = DATAPATH / "core" / "fuzz" / "corpus"
KEEP = 12  # builds of each kind
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "cxl-lab" / "core-tests"


@cache
def build(sanitize: str = "") -> Path:
    """The core with its test programs under these sanitizers ("address,undefined", "thread", "" for none); returns the folder."""
    return _build(sanitize.replace(",", "-") or "plain", ["-DCXL_TESTS=ON", f"-DCXL_SANITIZE={sanitize}"])


@cache
def build_fuzzers() -> Path:
    """The fuzz targets with libFuzzer, under AddressSanitizer and UBSan; returns the folder. Needs clang."""
    how = ["-DCXL_TESTS=ON", "-DCXL_LIBFUZZER=ON", "-DCXL_SANITIZE=address,undefined", "-DCMAKE_C_COMPILER=clang"]
    return _build("fuzzer", how, targets=[f"fuzz_{folder.name}" for folder in CORPUS.iterdir()])


@cache
def build_library() -> Path:
    """The core as it is shipped; returns the library."""
    return _build("release", ["-DCMAKE_BUILD_TYPE=Release"]) / "libcxl_core.so"


@cache
def build_bench() -> Path:
    """The program that measures; returns it."""
    return _build("bench", ["-DCMAKE_BUILD_TYPE=Release", "-DCXL_BENCH=ON"]) / "cxl-bench"


@cache
def build_simulator() -> Path:
    """The core on a model of incoherent caches; returns the library."""
    return _build("simulator", ["-DCXL_TESTS=ON"], ["cxl_sim"]) / "libcxl_sim.so"


def _build(kind: str, options: list[str], targets: Sequence[str] = ("all",)) -> Path:
    """Builds a copy of the sources, for cmake ties a build to one place of them."""
    files = (path for path in (DATAPATH / "core").rglob("*") if path.is_file() and not path.is_relative_to(CORPUS))
    sources = sorted([*files, DATAPATH / "CMakeLists.txt"])
    digest = hashlib.sha256(b"".join(str(path.relative_to(DATAPATH)).encode() + path.read_bytes() for path in sources))
    folder = CACHE / f"{kind}-{digest.hexdigest()[:16]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            _forget_old_builds(kind)
            for path in sources:
                copy = folder / "source" / path.relative_to(DATAPATH)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
            _run("cmake", "-S", folder / "source", "-B", folder / "build", *options)
            _run("cmake", "--build", folder / "build", "--target", *targets)
            (folder / "done").touch()
    return folder / "build"


def _forget_old_builds(kind: str) -> None:
    """Keeps the latest: other checkouts may be using them at this moment."""
    folders = sorted(CACHE.glob(f"{kind}-*"), key=lambda folder: folder.stat().st_mtime)
    for old in [folder for folder in folders if folder.is_dir()][:-KEEP]:
        shutil.rmtree(old)
        (CACHE / f"{old.name}.lock").unlink(missing_ok=True)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
