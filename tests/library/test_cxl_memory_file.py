# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_memory_file and its twin as Ansible runs them, with real files."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import memory_file
from ansible.modules import cxl_memory_file, cxl_memory_file_info
from fakes import run_module


@pytest.fixture
def call(monkeypatch, capsys):
    return partial(run_module, cxl_memory_file, monkeypatch, capsys)


@pytest.fixture
def files(tmp_path):
    return [{"path": str(tmp_path / "pool0"), "size": "1M"}, {"path": str(tmp_path / "disks/disk0"), "size": "8K"}]


def row(file, size):
    return {"path": file["path"], "kind": "regular file", "size": size, "mode": "0600"}


def test_make_then_nothing_then_remove(call, files, tmp_path):
    made = call(files=files)
    assert made["changed"] is True and made["files"] == [row(files[0], 1 << 20), row(files[1], 8192)]
    assert made["steps"] == [f"create {tmp_path}/pool0 of 1M", f"create {tmp_path}/disks/disk0 of 8K"]
    assert made["diff"] == {"before": {"files": []}, "after": {"files": made["files"]}}
    again = call(files=files)
    assert again["changed"] is False and again["files"] == made["files"] and again["steps"] == []
    gone = call(files=files, state="absent")
    assert gone["changed"] is True and gone["files"] == [] and gone["diff"]["before"]["files"] == made["files"]
    assert call(files=files, state="absent")["changed"] is False


def test_check_mode_foresees_and_touches_nothing(call, files, tmp_path):
    planned = call(files=files, check=True)
    assert planned["changed"] is True and list(tmp_path.iterdir()) == []
    assert planned["files"] == call(files=files)["files"]
    Path(files[0]["path"]).chmod(0o644)
    planned = call(files=files, check=True)
    assert planned["steps"] == [f"restrict {files[0]['path']} to its owner"] and planned["files"][0]["mode"] == "0600"
    assert Path(files[0]["path"]).stat().st_mode & 0o777 == 0o644
    planned = call(files=files, check=True, state="absent")
    assert planned["changed"] is True and planned["files"] == [] and Path(files[0]["path"]).exists()
    assert call(files=files)["changed"] is True and call(files=files, check=True)["changed"] is False


def test_check_mode_leaves_to_others_what_they_do_first(call, files, tmp_path):
    planned = call(files=files, of_others=files[:1], check=True)
    assert planned["steps"] == [f"create {tmp_path}/disks/disk0 of 8K"]
    assert [file["path"] for file in planned["diff"]["before"]["files"]] == [files[0]["path"]]
    assert planned["files"] == [row(files[0], 1 << 20), row(files[1], 8192)]
    assert call(files=files, of_others=files, check=True)["changed"] is False
    # In a run nobody is relied upon.
    assert call(files=files, of_others=files)["changed"] is True
    removed = call(files=files, of_others=files[:1], state="absent", check=True)
    assert removed["steps"] == [f"remove {files[1]['path']}"] and removed["files"] == []
    (tmp_path / "pool0").unlink()
    (tmp_path / "pool0").symlink_to("elsewhere")
    assert "is a symbolic link" in call(files=files, of_others=files, check=True)["msg"]


def test_nothing_is_made_when_one_of_them_cannot_be(call, files, tmp_path):
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks/disk0").write_bytes(b"somebody's data")
    result = call(files=files)
    assert result["failed"] is True and result["msg"].startswith(f"file {files[1]['path']}: has 15, not 8K; ")
    assert not (tmp_path / "pool0").exists() and (tmp_path / "disks/disk0").read_bytes() == b"somebody's data"


def test_what_is_in_use_stays(call, files):
    call(files=files)
    with Path(files[0]["path"]).open("rb"):
        result = call(files=files, state="absent")
        assert result["failed"] is True and f"is in use: process {os.getpid()} " in result["msg"]
        assert all(Path(file["path"]).exists() for file in files)
    assert call(files=files, state="absent")["changed"] is True


def test_a_change_that_somebody_undoes_is_reported(call, files, monkeypatch):
    monkeypatch.setattr(memory_file, "apply", lambda change: None)
    result = call(files=files)
    assert result["failed"] is True and result["msg"].endswith(
        "was done and is needed again: create " + files[0]["path"] + " of 1M; see who else changes it"
    )


def test_a_size_is_needed_to_make_one_and_not_to_remove_it(call, tmp_path):
    assert "None is no size" in call(files=[{"path": str(tmp_path / "x")}])["msg"]
    assert call(files=[{"path": str(tmp_path / "x")}], state="absent")["changed"] is False


def test_the_twin_tells_who_uses_what(call, files, monkeypatch, capsys):
    call(files=files)
    paths = [*(file["path"] for file in files), "/no/such/file"]
    with Path(files[1]["path"]).open("rb"):
        result = run_module(cxl_memory_file_info, monkeypatch, capsys, paths=paths)
    assert result["changed"] is False and [found["path"] for found in result["files"]] == paths[:2]
    users = [found.pop("users") for found in result["files"]]
    assert result["files"] == [row(files[0], 1 << 20), row(files[1], 8192)]
    assert users[0] == [] and any(f"process {os.getpid()} " in phrase for phrase in users[1])
