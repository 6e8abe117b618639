# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof in short, with few seeds; `make prove` does it in long. And what the proof itself rests on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import prove
import pytest
from python_scenarios import SCENARIOS
from simulator import adversaries, c_scenarios, sites

C_SEEDS, PYTHON_SEEDS = 10, 1
GOOD = [scenario for scenario in c_scenarios() if not scenario.bad]
BAD = [scenario for scenario in c_scenarios() if scenario.bad]
DOCS = Path(__file__).resolve().parents[3] / "docs" / "proof.md"


def name(value: object) -> str:
    return getattr(value, "name", str(value))


@pytest.mark.parametrize("scenario", GOOD, ids=name)
def test_the_core_withstands_every_adversary(scenario):
    for adversary in scenario.adversaries:
        assert prove.first_fall(scenario, adversary, range(1, 1 + C_SEEDS)) is None


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name)
def test_the_python_that_ships_withstands_every_adversary(scenario):
    for adversary in scenario.adversaries:
        assert prove.first_fall(scenario, adversary, range(1, 1 + PYTHON_SEEDS)) is None


@pytest.mark.parametrize("scenario", BAD, ids=name)
def test_known_bad_models_are_rejected(scenario):
    assert any(prove.first_fall(scenario, adversary, range(1, 50)) for adversary in scenario.adversaries)


# For each site an adversary that must miss it, and where.
KILLERS = {
    "payload-clean": ("ring", "lazy"),
    "payload-fence": ("ring", "reorder"),
    "slot-clean": ("ring", "lazy"),
    "slot-fence": ("channel", "reorder"),
    "slot-invalidate": ("ring", "lazy"),
    "slot-load-fence": ("ring", "reorder"),
    "payload-invalidate": ("ring", "lazy"),
    "payload-load-fence": ("ring", "reorder"),
    "meta-invalidate": ("metadata", "lazy"),
    "meta-load-fence": ("metadata", "reorder"),
    "meta-clean": ("metadata", "lazy"),
    "meta-fence": ("metadata", "reorder"),
    "fence-invalidate": ("takeover", "lazy"),
    "fence-load-fence": ("takeover", "reorder"),
    "page-clean": ("pages", "lazy"),
    "page-fence": ("pages", "crash"),
    "index-clean": ("pages", "lazy"),
    "index-fence": ("pages", "reorder"),
    "volume-invalidate": ("pages", "eager"),
    "volume-load-fence": ("pages", "reorder"),
}


def test_every_site_has_its_killer():
    assert sorted(KILLERS) == sorted(sites())


@pytest.mark.parametrize("site", KILLERS)
def test_no_site_can_be_left_out(site):
    where, adversary = KILLERS[site]
    scenario = next(scenario for scenario in prove.all_scenarios() if scenario.name == where)
    assert prove.first_fall(scenario, adversary, range(1, 60), sites().index(site)) is not None


def test_coherent_memory_needs_the_full_fence_of_a_store():
    """The only fence that is not about cache lines: without it two hosts hold the claim together on any x86-64 machine."""
    claim = next(scenario for scenario in SCENARIOS if scenario.name == "claim")
    fall = prove.first_fall(claim, "buffered", range(1, 60), sites().index("meta-fence"))
    assert fall is not None
    assert "hold the claim together" in fall.why


@pytest.mark.parametrize("scenario", [*GOOD[:1], *SCENARIOS[-1:]], ids=name)
def test_a_seed_is_all_that_a_run_depends_on(scenario):
    first, again, other = (scenario.run("torn", seed) for seed in (7, 7, 8))
    assert (first.steps, first.hits, first.trace) == (again.steps, again.hits, again.trace)
    assert first.trace != other.trace


def test_a_surviving_mutant_is_a_failure(capsys):
    """One scenario alone does not reach every site."""
    assert prove.prove(GOOD[:1], range(1, 3)) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"sites {len(sites())}, mutants {len(sites())}, killed \d+, seeds 2, seconds \d+", last)


def test_a_failing_core_is_told_with_its_replay(capsys):
    """What a known-bad model does to the report, if it were the core."""
    bad = next(scenario for scenario in BAD if scenario.name == "rfc-completion-stays")
    proof = prove.Proof([bad], range(1, 3))
    proof.withstand(bad)
    assert "--scenario rfc-completion-stays --adversary lazy --seed 1" in proof.problems[0]
    assert "FAILED" in capsys.readouterr().out


def test_a_seed_replays_from_the_command_line():
    program = [sys.executable, prove.__file__, "--scenario", "ring", "--adversary", "lazy", "--seed", "1"]
    done = subprocess.run([*program, "--drop", "slot-clean"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    *trace, last = done.stdout.splitlines()
    assert last.startswith("ring, lazy, seed 1: failed: nothing has come further for too long after")
    assert len(trace) > 200
    assert any("host 1  load fence" in line for line in trace)
    assert subprocess.run(program, check=False, capture_output=True).returncode == 0


def test_the_documentation_names_every_site_and_adversary():
    text = DOCS.read_text()
    assert [site for site in sites() if f"`{site}`" not in text] == []
    assert [adversary for adversary in adversaries() if f"`{adversary}`" not in text] == []
