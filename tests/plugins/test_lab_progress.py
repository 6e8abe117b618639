# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress lines of a playbook: as the plugin prints them, and as Ansible shows them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from ansible.plugins.loader import callback_loader
from labs import ROOT

PLUGINS = ROOT / "plugins" / "callback"


class Display:
    """Keeps what is shown; tells when there is enough."""

    def __init__(self, wanted: int) -> None:
        self.lines: list[str] = []
        self.wanted = wanted
        self.enough = threading.Event()

    def display(self, text: str, color: str) -> None:
        self.lines.append(text)
        if len(self.lines) >= self.wanted:
            self.enough.set()


@pytest.fixture
def callback(monkeypatch, tmp_path):
    """The plugin as Ansible loads it, with lines every 50 ms: there is no terminal."""
    monkeypatch.setenv("CXL_LAB_PROGRESS_INTERVAL", "0.01")
    callback_loader.add_directory(str(PLUGINS))
    plugin = callback_loader.get("lab_progress")
    plugin.set_options()
    plugin._display = Display(2)
    monkeypatch.setattr(sys.modules[type(plugin).__module__], "PROGRESS_FILE", tmp_path / "progress")
    yield plugin
    plugin.v2_playbook_on_stats(None)


def task(name):
    return SimpleNamespace(get_name=lambda: name)


def test_a_long_task_is_shown_again_and_again(callback):
    callback.v2_playbook_on_start(None)
    callback.v2_playbook_on_task_start(task("Build the image"), False)
    assert callback._display.enough.wait(60)
    assert all(line.startswith("  ... ") and line.endswith(" s  Build the image") for line in callback._display.lines)


def test_a_module_says_what_it_does(callback, tmp_path):
    callback.v2_playbook_on_task_start(task("Build the image"), False)
    (tmp_path / "progress").write_text("mmdebstrap: trixie\n")
    os.utime(tmp_path / "progress", (time.time() + 1, time.time() + 1))
    callback.v2_playbook_on_start(None)
    assert callback._display.enough.wait(60)
    assert all(line.endswith(" s  mmdebstrap: trixie") for line in callback._display.lines)


def test_what_an_earlier_task_said_is_old(callback, tmp_path):
    (tmp_path / "progress").write_text("mmdebstrap: trixie\n")
    os.utime(tmp_path / "progress", (1, 1))
    callback.v2_playbook_on_task_start(task("Start the hosts"), False)
    assert callback._detail() == "Start the hosts"


def test_what_is_no_text_does_not_stop_the_display(callback, tmp_path):
    (tmp_path / "progress").write_bytes(b"\xff\xfe")
    os.utime(tmp_path / "progress", (time.time() + 1, time.time() + 1))
    callback.v2_playbook_on_task_start(task("Start the hosts"), False)
    assert callback._detail() == "\N{REPLACEMENT CHARACTER}" * 2


@pytest.mark.parametrize(("name", "elapsed", "lines"), [("Quick", 1.9, 0), ("Long", 2.0, 3), ("", 9.0, 0)])
def test_only_long_tasks_are_shown(callback, monkeypatch, name, elapsed, lines):
    """The watcher looks three times and finds a task that has taken so long."""
    looks = iter([False, False, False, True])
    now = [100.0]
    monkeypatch.setattr(sys.modules[type(callback).__module__], "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    monkeypatch.setattr(callback, "_stop", SimpleNamespace(wait=lambda interval: next(looks), set=lambda: None))
    callback.v2_playbook_on_task_start(task(name), False)
    now[0] += elapsed
    callback._watch(2.0)
    assert callback._display.lines == [f"  ...   {elapsed:.0f} s  {name}"] * lines


def test_the_watcher_ends_with_the_playbook(callback):
    callback.v2_playbook_on_start(None)
    watcher = next(thread for thread in threading.enumerate() if getattr(thread, "_target", None) == callback._watch)
    callback.v2_playbook_on_stats(None)
    watcher.join(60)
    assert not watcher.is_alive()


def test_modules_and_the_display_mean_the_same_file():
    files = set()
    for path in (ROOT / "module_utils/cxl_lab/progress.py", PLUGINS / "lab_progress.py"):
        spec = importlib.util.spec_from_file_location("fresh", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        files.add(module.PROGRESS_FILE)
    assert len(files) == 1


@pytest.mark.parametrize(("seconds", "interval", "shown"), [("1.2", "0.05", True), ("0", "60", False)])
def test_in_a_playbook(tmp_path, seconds, interval, shown):
    """Into a pipe the lines come five times as rarely: here every quarter of a second, or every five minutes."""
    (tmp_path / "ansible.cfg").touch()
    play = tmp_path / "play.yml"
    play.write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
        f"    - name: Wait for a while\n      ansible.builtin.command: sleep {seconds}\n"
    )
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(PLUGINS),
        "ANSIBLE_CALLBACKS_ENABLED": "lab_progress",
        "CXL_LAB_PROGRESS_INTERVAL": interval,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(tmp_path),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", str(play)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # What follows the seconds may be the word of a module of another lab that is being built at this moment.
    assert (re.search(r"^  \.\.\. +\d+ s  \S", done.stdout, re.MULTILINE) is not None) == shown
