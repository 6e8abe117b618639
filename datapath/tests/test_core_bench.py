# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl-bench: every subcommand measures something, prints one JSON object, and leaves nothing behind. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from core_build import build_bench

MEMBERS = {"name", "unit", "value", "p10", "p50", "p99", "samples", "params"}
RUNS = [
    ["memcpy"],
    ["memcpy", "--to", "shared", "--block", "4096"],
    ["pingpong", "--coherence", "hardware"],
    ["pingpong", "--coherence", "software", "--pin", "no"],
    ["ring-rtt", "--coherence", "hardware"],
    ["ring-rtt", "--coherence", "software", "--pin", "no"],
    ["direct"],
    ["direct", "--op", "write", "--coherence", "software", "--engine", "sync"],
    ["direct", "--op", "mix", "--qd", "32", "--queues", "2", "--data-crc", "0"],
    ["direct", "--bs", "1048576", "--qd", "2", "--device", "zero"],
    ["idle", "--channels", "4", "--settle", "0"],
    ["wakeup", "--channels", "4", "--pause", "0.01"],
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([build_bench(), *arguments], check=False, capture_output=True, text=True, timeout=60)


def left_behind() -> list[Path]:
    return list(Path("/dev/shm").glob("cxl-bench-*"))


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_result(run: list[str]) -> None:
    done = bench(*run, "--seconds", "0.2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result.keys() >= MEMBERS
    assert result["name"] == run[0]
    assert result["samples"] > 0 and result["value"] == result["p50"] > 0 and result["p99"] > 0
    assert result["params"]["seconds"] == 0.2
    for option, value in zip(run[1::2], run[2::2], strict=True):
        assert str(result["params"][option.removeprefix("--")]) == value
    assert ("limit" in result) == (run[0] in ("ring-rtt", "idle"))
    assert result.get("limit", 1) > 0
    if run[0] == "direct":
        assert result["iops"] > 0 and result["mb_s"] > 0 and result["crc_retries"] == 0
    assert not left_behind()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which command?"),
        (["fly"], "fly is no command"),
        (["--folder", "here", "memcpy"], "--folder is an absolute path"),
        (["--folder", "/nowhere/at all", "memcpy"], "cannot make a file in /nowhere/at all: No such file or directory"),
        (["direct", "--bs"], "--bs needs a value"),
        (["direct", "--speed", "9"], "--speed is no option here"),
        (["direct", "bs", "4096"], "bs is no option here"),
        (["direct", "--bs", "100"], "--bs is 512 to 1048576, not 100"),
        (["direct", "--bs", "-1"], "--bs is 512 to 1048576, not -1"),
        (["direct", "--bs", "1000"], "--bs must be a multiple of 512"),
        (["direct", "--op", "erase"], "--op is read or write or mix, not erase"),
        (["direct", "--seconds", "nan"], "--seconds is 0.01 to 60 seconds, not nan"),
        (["pingpong", "--coherence", "maybe"], "--coherence is hardware or software, not maybe"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr


def test_the_folder_is_where_the_files_are_made_and_is_reported(tmp_path: Path) -> None:
    done = bench("--folder", str(tmp_path), "direct", "--seconds", "0.1", "--span", "1048576")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["params"]["folder"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_help_names_every_command() -> None:
    text = bench("--help").stdout
    assert all(f"\n  {run[0]}: " in text for run in RUNS)
