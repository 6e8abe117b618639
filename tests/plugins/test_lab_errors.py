# SPDX-License-Identifier: GPL-3.0-or-later
"""The reason of a failure is the last thing that a playbook says."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from labs import ROOT

FAIL = "ansible.builtin.fail"


def last_words(folder, inventory, *tasks, **variables):
    """What a playbook says after its recap, as lines, without the recap itself."""
    play = [{"hosts": "all", "connection": "local", "gather_facts": False, "tasks": tasks, "vars": variables}]
    (folder / "play.yml").write_text(json.dumps(play), encoding="utf-8")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    command = [sys.executable, "-m", "ansible", "playbook", "-i", inventory, str(folder / "play.yml")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    lines = done.stdout.rpartition("PLAY RECAP")[2].strip().splitlines()
    return [line for line in lines[1:] if line and "unreachable=" not in line]


def test_the_reason_comes_last_and_what_was_rescued_or_ignored_does_not(tmp_path):
    tasks = [
        {"name": "Ignored", FAIL: {"msg": "never mind"}, "ignore_errors": True},
        {
            "block": [{"name": "Rescued", FAIL: {"msg": "on node2"}, "when": "inventory_hostname == 'node2'"}],
            "rescue": [{"ansible.builtin.debug": {}}],
        },
        {"name": "Break", FAIL: {"msg": "the disk is gone"}, "when": "inventory_hostname == 'node1'"},
    ]
    assert last_words(tmp_path, "node1,node2", *tasks) == ["failed on node1: Break", "    the disk is gone"]


def test_of_a_loop_the_items_that_failed_are_named(tmp_path):
    task = {
        "name": "Make disks",
        FAIL: {"msg": "no room for {{ item.name }}"},
        "when": "item.size > 1",
        "loop": [{"name": "ram0", "size": 1}, {"name": "ram1", "size": 2}],
        "loop_control": {"label": "{{ item.name }}"},
    }
    assert last_words(tmp_path, "node1,", task) == ["failed on node1: Make disks", "    ram1: no room for ram1"]


def test_hosts_that_do_not_answer_are_those_of_an_inventory(tmp_path):
    nowhere = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    (tmp_path / "lab.json").write_text(json.dumps({"all": {"hosts": {"node1": nowhere}}}), encoding="utf-8")
    task = {"name": "Ask", "ansible.builtin.command": "true", "loop": ["ram0"]}
    first, reason, last = last_words(tmp_path, "lab.json", task)
    assert first == "failed on node1: Ask"
    assert reason.startswith("    ram0: ") and "Connection refused" in reason
    assert last == "no answer from node1: the lab of lab.json is not up (make lab), or was -i forgotten?"
