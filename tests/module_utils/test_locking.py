# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders appear whole or not at all, whatever happens to who makes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.locking import build_once, folder_held, locked

MODULE_UTILS = Path(__file__).resolve().parents[2] / "module_utils"
BUILDER = """
import sys, time
from pathlib import Path
from cxl_lab.locking import build_once

target, log, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])

def build(partial):
    (partial / "half").write_text("half")
    with log.open("a") as opened:
        opened.write("building\\n")
    print("building", flush=True)
    time.sleep(seconds)
    (partial / "whole").write_text("whole")

print(build_once(target, build), flush=True)
"""


def builder(target: Path, log: Path, seconds: float) -> subprocess.Popen:
    """Another process that makes the folder."""
    command = [sys.executable, "-c", BUILDER, str(target), str(log), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(MODULE_UTILS)})


def fill(partial: Path) -> None:
    (partial / "whole").write_text("new")


def test_a_folder_is_made_once(tmp_path):
    target = tmp_path / "deep" / "tree"
    assert build_once(target, fill) is True
    assert build_once(target, lambda partial: pytest.fail("built again")) is False
    assert [path.name for path in target.iterdir()] == ["whole"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_build_that_fails_leaves_nothing(tmp_path, error):
    target = tmp_path / "tree"

    def build(partial):
        (partial / "half").write_text("half")
        raise error

    with pytest.raises(error):
        build_once(target, build)
    assert [path.name for path in tmp_path.iterdir()] == [".tree.lock"]
    assert build_once(target, fill) and [path.name for path in target.iterdir()] == ["whole"]


def test_a_build_that_is_killed_leaves_no_target(tmp_path):
    target = tmp_path / "tree"
    with builder(target, tmp_path / "log", 600) as process:
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGKILL)
    assert not target.exists() and (tmp_path / ".tree.partial" / "half").exists()
    assert build_once(target, fill) is True
    assert [path.name for path in target.iterdir()] == ["whole"] and not (tmp_path / ".tree.partial").exists()


def test_two_processes_build_once(tmp_path):
    target, log = tmp_path / "tree", tmp_path / "log"
    first = builder(target, log, 0.3)
    assert first.stdout.readline() == "building\n"
    second = builder(target, log, 0)
    assert first.communicate(timeout=60)[0] == "True\n"
    assert second.communicate(timeout=60)[0] == "False\n"
    assert log.read_text() == "building\n" and (target / "whole").read_text() == "whole"


def test_the_lock_ends_with_its_block(tmp_path):
    path = tmp_path / "deep" / "lock"
    with pytest.raises(ValueError, match="inside"), locked(path):
        raise ValueError("inside")
    with locked(path):
        pass
    assert path.exists()


def test_a_folder_that_goes_while_somebody_waits_for_it_is_made_again(tmp_path):
    folder = tmp_path / "run"
    entered = threading.Event()

    def come() -> None:
        with folder_held(folder):
            entered.set()
            (folder / "mark").touch()

    with folder_held(folder):
        thread = threading.Thread(target=come)
        thread.start()
        assert not entered.wait(0.2)
        folder.rmdir()
    thread.join(10)
    assert (folder / "mark").exists()
