# SPDX-License-Identifier: GPL-3.0-or-later
"""Which extents a balancing policy moves."""

from __future__ import annotations

from ansible.module_utils.cxl_lab.dcd.balance import Piece, balance, pieces
from hypothesis import given
from hypothesis import strategies as st

MIB = 1 << 20


def piece(tag: str, size: int) -> Piece:
    return Piece(tag, 0, 0, size * MIB)


def test_the_fullest_gives_to_the_emptiest():
    free = {"a": [piece("x", 16), piece("y", 64), piece("z", 64)], "b": []}
    (move,) = balance({"a": 144 * MIB, "b": 0}, free, {})
    assert (move.source, move.target, move.piece.tag) == ("a", "b", "y"), "the one that comes nearest"
    assert move.row() == {"from": "a", "to": "b", "tag": "y", "region": 0, "offset": 0, "size": 64 * MIB}


def test_nothing_to_gain_nothing_moved():
    assert balance({"a": 64 * MIB, "b": 0}, {"a": [piece("x", 64)]}, {}) == [], "it would only change sides"
    assert balance({}, {}, {}) == []
    assert balance({"a": 128 * MIB, "b": 0}, {"a": [piece("x", 64)]}, {"b": ["x"]}) == [], "the other one has this tag"


def test_what_is_shared_used_or_not_accepted_stays():
    row = {"tag": "x", "region": 1, "offset": 0, "size": 64 * MIB, "shared": False, "state": "accepted"}
    assert pieces([row], [], 512 * MIB) == [Piece("x", 1, 0, 64 * MIB)]
    assert pieces([row], [(0, 64 * MIB)], 512 * MIB), "that is region 0"
    assert pieces([row], [(575 * MIB, MIB)], 512 * MIB) == []
    assert pieces([{**row, "shared": True}, {**row, "state": "partly"}], [], 512 * MIB) == []


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 64), max_size=6), min_size=1))
def test_it_ends_and_never_makes_it_worse(sizes):
    free = {host: [piece(f"{host}{n}", size) for n, size in enumerate(each)] for host, each in sizes.items()}
    held = {host: sum(each) * MIB for host, each in sizes.items()}
    after = dict(held)
    for move in balance(held, free, {}):
        gap = after[move.source] - after[move.target]
        after[move.source] -= move.piece.size
        after[move.target] += move.piece.size
        assert abs(after[move.source] - after[move.target]) < gap
    assert sum(after.values()) == sum(held.values())
    assert max(after.values()) - min(after.values()) <= max(held.values()) - min(held.values())
