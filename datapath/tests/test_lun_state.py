# SPDX-License-Identifier: GPL-3.0-or-later
"""The LUNs that a host is to have, on disk: what was saved comes back, and what is damaged is never guessed at."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cxl_datapath.cxlflash.desired import LunFile, LunState, check_users
from cxl_datapath.errors import Code, DatapathError

ONE = LunState("a" * 32, "flash0", "/dev/sdb", "superpipe", client_size=1 << 30, users=["postgres", "u1000"])
TWO = replace(ONE, wwid="b" * 32, name="flash1", path="/var/flash.img", mode="legacy", read_only=True)


def test_what_was_saved_comes_back(tmp_path):
    file = LunFile(tmp_path)
    assert file.load() == []
    file.save([ONE, TWO])
    assert LunFile(tmp_path).load() == [ONE, TWO]


@pytest.mark.parametrize(
    "change",
    [
        {"wwid": "A" * 32},
        {"wwid": "b" * 32},
        {"name": "flash1"},
        {"path": "relative"},
        {"mode": "both"},
        {"read_only": 1},
        {"client_contexts": 0},
        {"client_size": -1},
        {"users": "postgres"},
        {"users": ["a b"]},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(tmp_path, change):
    file = LunFile(tmp_path)
    file.save([ONE, TWO])
    raw = json.loads(file.path.read_text())
    raw["luns"][0] |= change
    file.path.write_text(json.dumps(raw))
    with pytest.raises(DatapathError) as caught:
        file.load()
    assert caught.value.code == Code.CORRUPT
    assert "luns.json" in str(caught.value)


def test_what_could_not_be_read_is_not_written(tmp_path):
    file = LunFile(tmp_path)
    file.save([ONE])
    with pytest.raises(DatapathError, match="nothing was written"):
        file.save([ONE, replace(TWO, wwid=ONE.wwid)])
    assert file.load() == [ONE]


@pytest.mark.parametrize("user", ["1000", "0", "postgres", "_apt", "systemd-network", "host$", "a.b", "u1000"])
def test_users_by_name_or_number(user):
    assert check_users("users", [user]) == [user]


@pytest.mark.parametrize("user", ["", "a b", "-x", "a/b", "1000x", "1" * 11, "a" * 64, "a\n", 1000, None])
def test_what_is_no_user(user):
    with pytest.raises(DatapathError, match="is no user"):
        check_users("users", [user])
