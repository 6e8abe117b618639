# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/recover.yml: what it refuses before anything is touched. A real takeover is in tests/roles/test_cbd_role.py."""

from __future__ import annotations

import pytest
from local_play import LocalPlay


@pytest.fixture
def play(tmp_path):
    return LocalPlay(tmp_path, {name: {"cbd_runtime_dir": str(tmp_path)} for name in ("node1", "node2")})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "say which host died and which one takes over: -e recover_host=node1 -e recover_to=node2"),
        ({"recover_host": "node1"}, "say which host died and which one takes over"),
        ({"recover_host": "node1", "recover_to": "node9"}, "node9 is no host of the inventory"),
        ({"recover_host": "node1", "recover_to": "node1"}, "node1 cannot take over from itself"),
    ],
)
def test_what_is_missing_is_said_at_once(play, variables, message):
    code, output = play.run("playbooks/recover.yml", **variables)
    assert code != 0 and message in output
    assert output.count("PLAY [") == 1, "nothing else was begun"
