# SPDX-License-Identifier: GPL-3.0-or-later
"""The soak in short: five kills of each victim. `make soak` does it in long."""

from __future__ import annotations

import pytest
from kill_loop import VICTIMS, run
from lab import Lab, needs_nbd

pytestmark = needs_nbd


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_writer_only_waits(lab: Lab, victim: str) -> None:
    """Where the server of the writer is not among the dead, its connection stays."""
    outcome = run(lab, victim, kills=5, seed=7)
    print(outcome)
    assert (outcome.connections == 1) == victim.startswith("backend")
