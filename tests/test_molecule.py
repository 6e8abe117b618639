# SPDX-License-Identifier: GPL-3.0-or-later
"""The molecule scenarios: whole, over what is there, with labs of their own names; and which of them a test run starts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = sorted(file.parent.name for file in ROOT.glob("molecule/*/molecule.yml"))
SEQUENCE = ["destroy", "create", "converge", "idempotence", "verify", "destroy"]
#: Too large for every change; "make test-all" runs the scenarios of these labs.
LARGE = ("switched", "eight_node", "two_labs")


def config(name: str) -> dict:
    return yaml.safe_load((ROOT / "molecule" / name / "molecule.yml").read_text(encoding="utf-8"))


def command_line(name: str) -> list[str]:
    words = config(name)["ansible"]["executor"]["args"]["ansible_playbook"]
    return [word.replace("${MOLECULE_PROJECT_DIRECTORY}", str(ROOT)) for word in words]


def test_every_inventory_with_a_scenario_is_there():
    assert set(SCENARIOS) == {"default", *LARGE}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_goes_from_nothing_to_nothing(name):
    assert config(name)["scenario"]["test_sequence"] == SEQUENCE
    playbooks = config(name)["ansible"]["playbooks"]
    assert {"create", "converge", "destroy"} <= set(playbooks)
    assert all((ROOT / "molecule" / name / path).is_file() for path in playbooks.values())
    assert list((ROOT / "molecule" / name / "tests").glob("test_*.py"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_its_playbooks_are_valid_over_its_inventory(name):
    playbooks = [str(ROOT / "molecule" / name / path) for path in config(name)["ansible"]["playbooks"].values()]
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "--syntax-check", *command_line(name), *playbooks]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SCENARIOS)
def test_its_labs_are_no_labs_of_a_user(name):
    text = "\n".join(
        [*command_line(name), *(file.read_text(encoding="utf-8") for file in (ROOT / "molecule" / name).glob("*.yml"))]
    )
    labs = re.findall(r"cxl_topology_lab[=:] ?([\w-]+)", text)
    assert labs and all(lab.startswith("molecule_") for lab in labs)


def would_run(target: str) -> str:
    return subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", LARGE)
def test_the_large_ones_are_left_to_make_test_all(name):
    assert f"test_{name}.py" not in would_run("test") and f"test_{name}.py" in would_run("test-all")
