# SPDX-License-Identifier: GPL-3.0-or-later
"""All probes in turns: every round takes each figure once, so that noise of the machine meets ours and theirs alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .cases import Case
from .probes import Probe, Sample

Samples = dict[Probe, list[Sample]]


def schedule(cases: Iterable[Case]) -> list[Probe]:
    """Each probe once, in the order of the rows, a row's peers right after it."""
    return list(dict.fromkeys(probe for case in cases for probe in (case.ours, *case.peers.values())))


def take(probes: list[Probe], rounds: int, measure: Callable[[Probe], Sample], say: Callable[[str], None]) -> Samples:
    """Runs all probes ``rounds`` times; ``say`` hears what is next."""
    samples: Samples = {probe: [] for probe in probes}
    for number in range(rounds):
        for index, probe in enumerate(probes):
            say(f"round {number + 1} of {rounds}, {index + 1} of {len(probes)}: {probe}")
            samples[probe].append(measure(probe))
    return samples
