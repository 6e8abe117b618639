# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of docs/proof.md: the core withstands incoherent memory, and each of its flushes and fences is needed for that.

    python datapath/tests/prove/prove.py                          # everything; `make prove` is this
    python datapath/tests/prove/prove.py --seeds 1000 --seed 5    # seeds 5 to 1004
    python datapath/tests/prove/prove.py --scenario ring --adversary torn --seed 17 --drop slot-fence     # one run, step by step

Exit status 1: the core fails somewhere, a flush or fence can be left out unnoticed, or a known-bad model passes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS), str(TESTS / "prove")]

from core_build import build_library

os.environ.setdefault("CXL_CORE_LIBRARY", str(build_library()))

from python_scenarios import SCENARIOS, PythonScenario
from simulator import NOTHING_DROPPED, Report, adversaries, c_scenarios, sites

SEEDS = 100
PYTHON_SHARE = 5  # a scenario in Python takes one seed where one in C takes so many: it is as much slower
TRIES = 20  # seeds of one scenario that an adversary has to kill a mutant, unless nobody does it in so many


class Scenario(Protocol):
    name: str
    bad: bool

    @property
    def adversaries(self) -> list[str]: ...

    def run(self, adversary: str, seed: int, drop: int = NOTHING_DROPPED) -> Report: ...


def all_scenarios() -> list[Scenario]:
    return [*c_scenarios(), *SCENARIOS]


@dataclass(frozen=True)
class Fall:
    """One run that failed."""

    scenario: str
    adversary: str
    seed: int
    drop: int
    why: str

    def __str__(self) -> str:
        drop = f" --drop {sites()[self.drop]}" if self.drop != NOTHING_DROPPED else ""
        arguments = f"--scenario {self.scenario} --adversary {self.adversary} --seed {self.seed}{drop}"
        return f"{self.why}\n    replay: python datapath/tests/prove/prove.py {arguments}"


def first_fall(scenario: Scenario, adversary: str, seeds: Iterable[int], drop: int = NOTHING_DROPPED) -> Fall | None:
    for seed in seeds:
        report = scenario.run(adversary, seed, drop)
        if report.failed:
            return Fall(scenario.name, adversary, seed, drop, report.why)
    return None


@dataclass
class Proof:
    """All runs with these seeds. What went wrong is in `problems`."""

    scenarios: Sequence[Scenario]
    seeds: range
    problems: list[str] = field(default_factory=list)
    reached: dict[tuple[str, str], set[int]] = field(default_factory=dict)  # scenario, adversary -> sites
    kills: dict[int, dict[str, Fall]] = field(default_factory=dict)  # site -> adversary -> what it did

    def share(self, scenario: Scenario, tries: int | None = None) -> range:
        count = len(self.seeds) if tries is None else min(tries, len(self.seeds))
        if isinstance(scenario, PythonScenario):
            count = -(-count // PYTHON_SHARE)
        return self.seeds[:count]

    def withstand(self, scenario: Scenario) -> None:
        """The core as it is, against each adversary that the scenario must withstand."""
        for adversary in scenario.adversaries:
            reached = self.reached.setdefault((scenario.name, adversary), set())
            for seed in self.share(scenario):
                report = scenario.run(adversary, seed)
                reached.update(site for site, hits in enumerate(report.hits) if hits)
                if report.failed:
                    self.problem(str(Fall(scenario.name, adversary, seed, NOTHING_DROPPED, report.why)))
                    break
        print(f"withstands   {scenario.name}: {', '.join(scenario.adversaries)}", flush=True)

    def reject(self, scenario: Scenario) -> None:
        """A known-bad model: somebody must break it."""
        falls = [first_fall(scenario, adversary, self.seeds) for adversary in scenario.adversaries]
        by = [fall.adversary for fall in falls if fall]
        if not by:
            self.problem(f"the known-bad model {scenario.name} passes")
        print(f"rejected     {scenario.name}: by {', '.join(by) or 'NOBODY'}", flush=True)

    def mutate(self, site: int) -> None:
        """Leaves out one flush or fence."""
        kills = self.kills[site] = self.attack(site, TRIES) or self.attack(site, None)
        if not kills:
            self.problem(f"nobody misses {sites()[site]}: a scenario is too weak, or the site is not needed and must go")
        for fall in list(kills.values())[:1]:
            print(f"killed       {sites()[site]}: {fall.adversary}, {fall.scenario}, seed {fall.seed}: {fall.why}", flush=True)

    def attack(self, site: int, tries: int | None) -> dict[str, Fall]:
        kills: dict[str, Fall] = {}
        for scenario in self.scenarios:
            for adversary in scenario.adversaries:
                if adversary in kills or scenario.bad or site not in self.reached[scenario.name, adversary]:
                    continue
                if fall := first_fall(scenario, adversary, self.share(scenario, tries), site):
                    kills[adversary] = fall
        return kills

    def problem(self, what: str) -> None:
        self.problems.append(what)
        print(f"FAILED       {what}", flush=True)

    def run(self) -> None:
        for scenario in self.scenarios:
            (self.reject if scenario.bad else self.withstand)(scenario)
        for site in range(len(sites())):
            self.mutate(site)


def table(kills: dict[int, dict[str, Fall]]) -> str:
    """Who misses which site, as it stands in docs/proof.md: the scenario in which an adversary did."""
    rows = [["site", *adversaries()]]
    rows += [[f"`{sites()[site]}`", *(by[a].scenario if a in by else "" for a in adversaries())] for site, by in kills.items()]
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def replay(scenario: Scenario, adversary: str, seed: int, drop: int) -> int:
    report = scenario.run(adversary, seed, drop)
    print(report.trace, end="")
    outcome = ("passed", "gave up, as this adversary may make it", f"failed: {report.why}")[report.outcome]
    print(f"{scenario.name}, {adversary}, seed {seed}: {outcome} after {report.steps} steps")
    return int(report.failed)


def prove(scenarios: Sequence[Scenario], seeds: range) -> int:
    began = time.monotonic()
    proof = Proof(scenarios, seeds)
    proof.run()
    killed = sum(bool(kills) for kills in proof.kills.values())
    print(f"\n{table(proof.kills)}\n")
    for problem in proof.problems:
        print(f"FAILED       {problem}")
    seconds = round(time.monotonic() - began)
    print(f"sites {len(sites())}, mutants {len(proof.kills)}, killed {killed}, seeds {len(seeds)}, seconds {seconds}")
    return int(bool(proof.problems))


def main(arguments: Sequence[str] | None = None) -> int:
    scenarios = {scenario.name: scenario for scenario in all_scenarios()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, for each scenario and adversary (default {SEEDS})")
    parser.add_argument("--seed", type=int, default=1, help="the first one (default 1)")
    parser.add_argument("--scenario", choices=scenarios, help="one run of this one, with --adversary and --seed")
    parser.add_argument("--adversary", choices=adversaries())
    parser.add_argument("--drop", choices=sites(), help="the flush or fence that is not there")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.seed < 0:
        parser.error("--seeds is at least 1, --seed at least 0")
    if bool(options.scenario) != bool(options.adversary) or (options.drop and not options.scenario):
        parser.error("--scenario, --adversary and --seed name one run, --drop a site in it; the proof needs none but --seed")
    if options.scenario:
        drop = sites().index(options.drop) if options.drop else NOTHING_DROPPED
        return replay(scenarios[options.scenario], options.adversary, options.seed, drop)
    return prove(list(scenarios.values()), range(options.seed, options.seed + options.seeds))


if __name__ == "__main__":
    sys.exit(main())
