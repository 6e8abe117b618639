# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch of a lab network, as a real process."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab.detached import start_time
from ansible.module_utils.cxl_lab.topology.plan import LabPaths
from ansible.module_utils.cxl_lab.topology.store import Owner
from ansible.module_utils.cxl_lab.topology.switches import start_switches, stop_switches, switch_daemon
from labs import machines_of

pytestmark = pytest.mark.skipif(shutil.which("vde_switch") is None, reason="vde_switch is not installed")
ME = Owner(os.getuid(), os.getgid())
MACHINES = machines_of({"hosts": [{"name": name} for name in "abc"]})


@pytest.fixture
def paths(tmp_path):
    paths = LabPaths("two_node", tmp_path, tmp_path, tmp_path / "run")
    paths.network.mkdir()
    yield paths
    stop_switches(paths)


def test_it_runs_until_it_is_stopped(paths):
    start_switches(paths, MACHINES, ME)
    daemon = switch_daemon(paths, "lab", 38, ME)
    pid = daemon.own_pid()
    assert pid and daemon.answers()
    start_switches(paths, MACHINES, ME)
    assert daemon.own_pid() == pid, "it is not started twice"
    stop_switches(paths)
    assert daemon.own_pid() == 0 and start_time(pid) == "" and list(paths.run.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_it_runs_as_the_emulator_and_nobody_else_may_plug_in(paths):
    folder = paths.root
    while "pytest-of-" in str(folder):  # what pytest made of it is for root only
        folder.chmod(0o755)
        folder = folder.parent
    os.chown(paths.network, 65534, 65534)
    start_switches(paths, MACHINES, Owner(65534, 65534))
    pid = switch_daemon(paths, "lab", 38, ME).own_pid()
    assert Path(f"/proc/{pid}").stat().st_uid == 65534
    control = (paths.switch("lab") / "ctl").stat()
    assert (control.st_uid, control.st_mode & 0o777) == (65534, 0o600)


def test_another_lab_keeps_its_own(paths, tmp_path):
    start_switches(paths, MACHINES, ME)
    stop_switches(LabPaths("two", tmp_path, tmp_path, tmp_path / "run"))
    assert switch_daemon(paths, "lab", 38, ME).own_pid()


def test_one_that_was_killed_is_replaced(paths):
    start_switches(paths, MACHINES, ME)
    daemon = switch_daemon(paths, "lab", 38, ME)
    pid = daemon.own_pid()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    start_switches(paths, MACHINES, ME)
    assert daemon.own_pid() not in (0, pid) and daemon.answers()


def test_one_that_nobody_is_plugged_into_any_more_ends(paths):
    start_switches(paths, MACHINES, ME)
    start_switches(paths, machines_of({"hosts": [{"name": "a"}, {"name": "b"}]}), ME)
    assert list(paths.run.iterdir()) == []


def test_two_hosts_need_none(paths):
    start_switches(paths, machines_of({"hosts": [{"name": "a"}, {"name": "b"}]}), ME)
    assert not paths.run.exists()
