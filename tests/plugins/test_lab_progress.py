# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress lines of a playbook: as the plugin prints them, and as Ansible shows them."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
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
    monkeypatch.setattr(sys.modules[type(plugin).__module__], "PROGRESS_FOLDER", tmp_path)
    yield plugin
    plugin.v2_playbook_on_stats(None)


def task(name):
    return SimpleNamespace(get_name=lambda: name)


def test_a_long_task_is_shown_again_and_again(callback):
    callback.v2_playbook_on_start(None)
    callback.v2_playbook_on_task_start(task("Build the image"), False)
    assert callback._display.enough.wait(60)
    assert all(line.startswith("  ... ") and line.endswith(" s  Build the image") for line in callback._display.lines)


@pytest.fixture
def module():
    """A process of this playbook, two generations down, as modules are."""
    process = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True)
    pid = process.stdout.readline().strip()
    yield pid
    os.kill(int(pid), signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_module_says_what_it_does(callback, tmp_path, module):
    callback.v2_playbook_on_task_start(task("Build the image"), False)
    (tmp_path / module).write_text("mmdebstrap: trixie\n")
    callback.v2_playbook_on_start(None)
    assert callback._display.enough.wait(60)
    assert all(line.endswith(" s  mmdebstrap: trixie") for line in callback._display.lines)


def test_what_processes_of_others_and_earlier_ones_said_is_not_shown(callback, tmp_path):
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    for name in ("1", str(os.getppid()), ended, "word", f"{os.getpid()}.7"):
        (tmp_path / name).write_text("mmdebstrap: trixie\n")
    callback.v2_playbook_on_start(None)
    callback.v2_playbook_on_task_start(task("Start the hosts"), False)
    assert callback._display.enough.wait(60)
    assert all(line.endswith(" s  Start the hosts") for line in callback._display.lines)


def test_what_is_no_text_does_not_stop_the_display(callback, tmp_path, module):
    (tmp_path / module).write_bytes(b"\xff\xfe")
    callback.v2_playbook_on_task_start(task("Start the hosts"), False)
    callback.v2_playbook_on_start(None)
    assert callback._display.enough.wait(60)
    assert all(line.endswith(" s  " + "\N{REPLACEMENT CHARACTER}" * 2) for line in callback._display.lines)


@pytest.mark.parametrize(
    ("name", "seconds", "shown"),
    [("Quick", 1.9, []), ("Long", 2.0, [2]), ("Longer", 23.0, [2, 12, 22]), ("", 9.0, [])],
)
def test_the_first_line_comes_when_a_task_is_long_and_the_next_ones_more_rarely(callback, monkeypatch, name, seconds, shown):
    """The watcher sleeps until a line is due; time passes while it does."""
    now = [100.0]

    def sleep(pause):
        now[0] += pause
        return now[0] > 100.0 + seconds

    monkeypatch.setattr(sys.modules[type(callback).__module__], "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(callback, "_stop", SimpleNamespace(wait=sleep, set=lambda: None))
    monkeypatch.setattr(callback, "_interval", 2.0)
    callback.v2_playbook_on_task_start(task(name), False)
    callback._watch(10.0)
    assert callback._display.lines == [f"  ... {second:3.0f} s  {name}" for second in shown]


def test_a_task_that_begins_meanwhile_has_its_own_two_seconds(callback, monkeypatch):
    now, begins = [100.0], [105.5]

    def sleep(pause):
        end = now[0] + pause
        while begins and begins[0] < end:
            now[0] = begins.pop(0)
            callback.v2_playbook_on_task_start(task("Second"), False)
        now[0] = end
        return end > 108.0

    monkeypatch.setattr(sys.modules[type(callback).__module__], "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(callback, "_stop", SimpleNamespace(wait=sleep, set=lambda: None))
    monkeypatch.setattr(callback, "_interval", 2.0)
    callback.v2_playbook_on_task_start(task("First"), False)
    callback._watch(10.0)
    assert callback._display.lines == ["  ...   2 s  First", "  ...   2 s  Second"], (
        "though the next line of the first was due at 12 s"
    )


def test_the_watcher_ends_with_the_playbook(callback):
    callback.v2_playbook_on_start(None)
    watcher = next(thread for thread in threading.enumerate() if getattr(thread, "_target", None) == callback._watch)
    callback.v2_playbook_on_stats(None)
    watcher.join(60)
    assert not watcher.is_alive()


def test_modules_and_the_display_mean_the_same_folder():
    files = set()
    for path in (ROOT / "module_utils/cxl_lab/progress.py", PLUGINS / "lab_progress.py"):
        spec = importlib.util.spec_from_file_location("fresh", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        files.add(module.PROGRESS_FOLDER)
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
    assert (re.search(r"^  \.\.\. +\d+ s  Wait for a while$", done.stdout, re.MULTILINE) is not None) == shown
