# SPDX-License-Identifier: GPL-3.0-or-later
"""A slot whose number was damaged on its way is never seen, and nothing behind it is: the ring has a hole."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "soak"))

from bit_flips import Flips
from hosts import PATIENCE_S, wait_until
from lab import Lab, needs_nbd, socket_of
from mishaps import paused
from nbd_client import Command, NbdClient

pytestmark = needs_nbd

BLOCK = 4096


@pytest.mark.parametrize("queues", [1, 2])
def test_a_hole_costs_a_pause_and_no_request(lab: Lab, queues: int) -> None:
    disk, device = lab.mapped(io_timeout=3600, queues=queues)
    with Flips(lab.memory) as flips, NbdClient(socket_of(device)) as client:
        client.call(Command.WRITE, 0, data=b"1" * BLOCK)
        with paused([lab.node1.worker("backend", "pool0", 0)["pid"]]):
            writing = threading.Thread(target=lambda: client.call(Command.WRITE, BLOCK, data=b"2" * BLOCK), daemon=True)
            writing.start()
            (slot,) = wait_until(flips.unanswered, "the request is in the ring")
            flips.flip(slot.place, 40)  # of its sequence number
        writing.join(PATIENCE_S)
        assert not writing.is_alive(), "the request never came back"
        assert client.call(Command.READ, 0, 2 * BLOCK) == b"1" * BLOCK + b"2" * BLOCK
        assert client.connections == 1
    assert disk.read_bytes()[: 2 * BLOCK] == b"1" * BLOCK + b"2" * BLOCK
