# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person types, and what the tables say of it."""

from __future__ import annotations

import argparse

import pytest

from cxl_datapath.cli_values import id_or_name
from cxl_datapath.tables import table

GONE = "backend 0 was stopped or cleared; stop this blkdev, then start one on another backend"


@pytest.mark.parametrize(("text", "value"), [("7", 7), ("-1", -1), ("data", "data"), ("/dev/vdb", "/dev/vdb"), ("7a", "7a")])
def test_an_id_or_a_name(text: str, value: int | str) -> None:
    assert id_or_name(text) == value


@pytest.mark.parametrize("text", ["9" * 16, "-" + "9" * 5000])
def test_a_number_that_no_id_has_is_no_name_either(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="too many digits for an id"):
        id_or_name(text)


def test_a_lost_device_says_why_its_requests_fail() -> None:
    worker = {"state": "running", "error": None, "info": {"path_state": "offline", "path_reason": GONE}}
    row = {"id": 0, "state": "lost", "worker": worker}
    assert f"lost   offline ({GONE})" in table(("id", "state", "worker"), [row])
    waiting = worker | {"state": "waiting", "error": {"object": "backend 0", "message": "was taken over", "hint": ""}}
    assert "given up (backend 0: was taken over)" in table(("id", "state", "worker"), [row | {"worker": waiting}])
