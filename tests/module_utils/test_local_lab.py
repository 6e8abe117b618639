# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab of processes is removed by what it left, with real processes and files."""

from __future__ import annotations

import os
import sys

import pytest
from ansible.module_utils.cxl_lab.detached import Daemon
from ansible.module_utils.cxl_lab.local_lab import LocalLab, remove

LISTEN = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); time.sleep(600)"


@pytest.fixture
def lab(tmp_path):
    places = {name: tmp_path / name for name in ("run", "state", "shared")}
    for place in places.values():
        place.mkdir()
    lab = LocalLab(**places, prefix="cxl-lab-x.", paths=(str(tmp_path / "elsewhere"),), user=os.geteuid())
    yield lab
    for daemon in lab.daemons():
        daemon.stop()


def start(lab, name):
    path = lab.run / f"{name}.sock"
    daemon = Daemon(name, (sys.executable, "-c", LISTEN, str(path)), path, lab.run)
    daemon.start()
    return daemon


def test_everything_goes_whatever_the_inventory_says(lab, tmp_path):
    daemons = [start(lab, name) for name in ("node1", "node.2")]
    for path in (lab.shared / "cxl-lab-x.pool0", lab.state / "disk0", tmp_path / "elsewhere"):
        path.write_bytes(b"x")
    others = [lab.shared / "cxl-lab-xy.pool0", lab.shared / "other"]
    for path in others:
        path.touch()
    assert remove(lab)[1] == []
    assert not any(daemon.own_pid() for daemon in daemons)
    assert lab.left() == [] and all(path.exists() for path in others)
    assert remove(lab) == ([], [])


def test_what_cannot_go_is_named_and_the_rest_goes(lab, tmp_path):
    daemon = start(lab, "node1")
    (tmp_path / "elsewhere").mkdir()
    memory = lab.shared / "cxl-lab-x.pool0"
    memory.touch()
    (lab.state / "disk0").touch()
    busy = LocalLab(lab.run, lab.state, lab.shared, lab.prefix, (*lab.paths, str(lab.state / "disk0")), lab.user)
    with (lab.state / "disk0").open("rb"):
        _, problems = remove(busy)
    assert not daemon.own_pid() and not memory.exists() and not lab.run.exists()
    folder, used, stays = problems
    assert folder.startswith(f"file {tmp_path}/elsewhere: is a folder; choose another path, or remove it yourself")
    assert used.startswith(f"file {lab.state}/disk0: is in use: process {os.getpid()}")
    assert stays.startswith(f"folder {lab.state}: stays for {lab.state}/disk0; run this again")
    assert (lab.state / "disk0").exists()


def test_a_pid_that_another_program_has_now_is_left_alone(lab):
    (lab.run / "node1.pid").write_text(f"{os.getpid()} 1\n")
    assert remove(lab) == ([str(lab.run), str(lab.state)], [])
