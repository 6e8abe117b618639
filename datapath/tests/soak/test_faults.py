# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults in short: each once or a few times. `make soak` does them in long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fault_loop import FAULTS, run
from handover import Relay
from handover import run as hand_over
from hosts import Host
from lab import MEMORY, Lab, needs_nbd

pytestmark = needs_nbd

# As many bits of the metadata as there are copies and lines.
COUNTS = {"flip-metadata": 24, "flip-submission": 2, "flip-completion": 2}
HARMLESS = {fault for fault in FAULTS if fault.startswith("stop-")} - {"stop-backend-worker"}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_wrong_is_accepted(lab: Lab, fault: str) -> None:
    """A worker that stands still for longer than the I/O timeout costs requests, a bit may; a host that stands still does not."""
    writer = run(lab, fault, COUNTS.get(fault, 1), seed=3).writer
    print(fault, writer.figures())
    assert writer.checked
    if fault in HARMLESS:
        assert writer.errors == 0


def test_a_history_with_handovers_is_linearizable(
    shared_file: Callable[[int], Path], tmp_path: Path, make_host: Callable[..., Host]
) -> None:
    print(hand_over(Relay(shared_file(MEMORY), tmp_path, make_host), handovers=2, seed=1))
