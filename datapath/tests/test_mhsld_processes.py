# SPDX-License-Identifier: GPL-3.0-or-later
"""64 heads in processes: no claim is lost and none is given twice; a head that dies leaves claims that its successor clears."""

from __future__ import annotations

import json
import multiprocessing
import signal
import struct
import subprocess
import sys
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import mhsld_claimer
from test_mhsld_state import make

from cxl_datapath.errors import DatapathError
from cxl_datapath.mhsld.state import StateFile

HEADS, BLOCKS, ROUNDS, AT_ONCE = 64, 6, 300, 8


def start(path: Path, witness: Path, head: int, rounds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", mhsld_claimer.__file__, str(path), str(witness), str(head), str(rounds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_no_lost_and_no_double_claim(tmp_path):
    path, witness = make(tmp_path / "s", BLOCKS, HEADS), tmp_path / "witness"
    witness.write_bytes(bytes(8 * BLOCKS))
    total = [0] * BLOCKS
    for first in range(0, HEADS, AT_ONCE):
        claimers = [start(path, witness, head, ROUNDS) for head in range(first, first + AT_ONCE)]
        for claimer in claimers:
            answer, _ = claimer.communicate(timeout=300)
            assert claimer.returncode == 0
            total = [sum(pair) for pair in zip(total, json.loads(answer), strict=True)]
    assert list(struct.unpack(f"<{BLOCKS}Q", witness.read_bytes())) == total and sum(total) > 0
    with StateFile(path) as state:
        assert state.spans() == []


RACES = 1000


def race(path: Path, head: int, start: Barrier, said: Connection) -> None:
    """Claims the same range as the other one at the same moment, again and again; tells each time what came of it."""
    answers = []
    with StateFile(path) as state:
        for _ in range(RACES):
            start.wait(60)
            try:
                state.claim(head, [(0, BLOCKS)])
                answers.append("")
            except DatapathError as error:
                answers.append(str(error))
            start.wait(60)
            state.release(head, [(0, BLOCKS)])
            start.wait(60)
    said.send(answers)


def test_of_two_heads_exactly_one_wins_and_the_other_hears_who(tmp_path):
    path = make(tmp_path / "s", BLOCKS, HEADS, ("node1", "node2"))
    context = multiprocessing.get_context("fork")
    start, pipes = context.Barrier(2), [context.Pipe(False) for _ in range(2)]
    racers = [context.Process(target=race, args=(path, head, start, pipes[head][1])) for head in range(2)]
    for racer in racers:
        racer.start()
    said = [pipes[head][0].recv() for head in range(2)]
    for racer in racers:
        racer.join(60)
    for one, two in zip(*said, strict=True):
        assert (one == "") != (two == ""), (one, two)
        assert "belongs to node1;" in two if one == "" else "belongs to node2;" in one
    assert len(said[0]) == RACES


def test_what_a_dead_head_left_is_cleared_and_nothing_else(tmp_path):
    path, witness = make(tmp_path / "s", 20000, HEADS), tmp_path / "witness"
    witness.write_bytes(bytes(8 * 20000))
    with StateFile(path) as state:
        state.claim(1, [(19999, 1)])
        left = 0
        while not left:  # until it was hit between claim and release
            claimer = start(path, witness, 5, 1 << 30)
            while not any(span.holders >> 5 & 1 for span in state.spans()):
                assert claimer.poll() is None
            claimer.send_signal(signal.SIGKILL)
            claimer.communicate()
            left = state.clear(5)
        assert [(span.first, span.count, span.holders) for span in state.spans()] == [(19999, 1, 2)]
