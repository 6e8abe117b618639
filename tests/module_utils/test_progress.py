# SPDX-License-Identifier: GPL-3.0-or-later
"""One line, or nothing: never a failure."""

from __future__ import annotations

import os
import subprocess

import pytest
from ansible.module_utils.cxl_lab import progress as module
from ansible.module_utils.cxl_lab.progress import progress


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PROGRESS_FOLDER", tmp_path / "run")
    return tmp_path / "run" / str(os.getpid())


def test_the_last_line_stays(file):
    progress("first")
    progress("building\nthe tree")
    assert file.read_text(encoding="utf-8") == "building the tree"


def test_nothing_that_a_terminal_obeys(file):
    progress("banner \x1b]0;title\x07\x1b[2J\r\x9b done")
    assert file.read_text(encoding="utf-8") == "banner  ]0;title  [2J   done"


def test_a_long_line_is_cut(file):
    progress("ä" * 1000)
    assert file.read_text(encoding="utf-8") == "ä" * 200


def test_what_processes_left_that_are_gone_is_removed(file):
    file.parent.mkdir()
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    for name in (ended, f"{ended}.7", "1"):
        (file.parent / name).touch()
    progress("first")
    assert sorted(path.name for path in file.parent.iterdir()) == sorted(["1", str(os.getpid())])


def test_no_place_to_write_is_no_failure(file):
    file.parent.write_text("in the way")
    progress("first")
    assert file.parent.read_text() == "in the way"
