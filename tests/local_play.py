# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks as a user runs them, on hosts that are processes of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class LocalPlay:
    """Runs playbooks of this checkout over an inventory of its own.

    :param folder: where the inventory and playbooks of a test are put.
    :param hosts: variables of each host of group cxl_hosts.
    """

    def __init__(self, folder: Path, hosts: dict[str, dict[str, Any]]) -> None:
        self._folder = folder
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_become": False}
        inventory = {"all": {"vars": local, "children": {"cxl_hosts": {"hosts": hosts}}}}
        (folder / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")

    def role(self, role: str, **variables: Any) -> Path:
        """A playbook that is nothing but this role on all hosts."""
        play = [{"hosts": "cxl_hosts", "gather_facts": False, "roles": [{"role": role, "vars": variables}]}]
        path = self._folder / "play.yml"
        path.write_text(json.dumps(play), encoding="utf-8")
        return path

    def run(self, playbook: Path | str, *options: str, **variables: Any) -> tuple[int, str]:
        """The exit code, and the output with all white space as single blanks."""
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self._folder / "hosts.json"), *options]
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        command += ["-e", json.dumps(variables), str(ROOT / playbook)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
        return done.returncode, " ".join((done.stdout + done.stderr).split())


def changed(output: str) -> int:
    """How many changes the recap counts, over all hosts."""
    counts = re.findall(r"changed=(\d+)", output)
    assert counts, f"there is no recap: {output}"
    return sum(map(int, counts))
