# SPDX-License-Identifier: GPL-3.0-or-later
"""The reason of a failure is the last thing that a playbook says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from labs import ROOT


def test_the_reason_comes_last_and_what_was_rescued_or_ignored_does_not(tmp_path):
    fail = "ansible.builtin.fail"
    tasks = [
        {"name": "Ignored", fail: {"msg": "never mind"}, "ignore_errors": True},
        {
            "block": [{"name": "Rescued", fail: {"msg": "on node2"}, "when": "inventory_hostname == 'node2'"}],
            "rescue": [{"ansible.builtin.debug": {}}],
        },
        {"name": "Break", fail: {"msg": "the disk is gone"}, "when": "inventory_hostname == 'node1'"},
    ]
    play = [{"hosts": "all", "connection": "local", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(play), encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "node1,node2", str(tmp_path / "play.yml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.rpartition("PLAY RECAP")[2].strip().splitlines()[-2:] == [
        "failed on node1: Break",
        "    the disk is gone",
    ]
    assert "failed on node2" not in done.stdout
