# SPDX-License-Identifier: GPL-3.0-or-later
"""The checker itself: it accepts what a register can do, and rejects what it cannot."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linearizable import Kind, NotLinearizable, Operation, check


def w(value: int, begin: float, end: float | None, client: str = "a") -> Operation:
    return Operation(client, Kind.WRITE, value, begin, end)


def r(value: int, begin: float, end: float | None, client: str = "b") -> Operation:
    return Operation(client, Kind.READ, value, begin, end)


GOOD = {
    "nothing at all": [],
    "what was never written": [r(0, 1, 2)],
    "one after the other": [w(1, 1, 2), r(1, 3, 4), w(2, 5, 6), r(2, 7, 8)],
    "during a write the old value": [w(1, 1, 9), r(0, 2, 3)],
    "... and the new one": [w(1, 1, 9), r(1, 2, 3), r(1, 4, 5)],
    "... and first the old, then the new one": [w(1, 1, 9), r(0, 2, 3), r(1, 4, 5)],
    "two reads at once that differ": [w(1, 1, 9), r(1, 2, 6), r(0, 3, 7, "c")],
    "two writes at once in either order": [w(1, 1, 5), w(2, 1, 5, "b"), r(1, 6, 7)],
    "the other order": [w(1, 1, 5), w(2, 1, 5, "b"), r(2, 6, 7)],
    "a write without an answer that happened": [w(1, 1, None), r(0, 2, 3), r(1, 4, 5)],
    "a write without an answer that did not": [w(1, 1, None), r(0, 2, 3), w(2, 4, 5), r(2, 6, 7)],
    "a write without an answer that comes late": [w(1, 1, None), w(2, 2, 3, "b"), r(2, 4, 5), r(1, 6, 7)],
    "a read without an answer": [w(1, 1, 2), r(7, 3, None)],
    "answer and call at one moment": [w(1, 1, 2), r(0, 2, 3)],
}
BAD = {
    "a lost write": [w(1, 1, 2), r(0, 3, 4)],
    "a value that nobody wrote": [w(1, 1, 2), r(3, 3, 4)],
    "a value before it was written": [r(1, 1, 2), w(1, 3, 4)],
    "new, then old": [w(1, 1, 9), r(1, 2, 3), r(0, 4, 5)],
    "new, then old, by another": [w(1, 1, 9), r(1, 2, 3), r(0, 4, 5, "c")],
    "an old write that comes back": [w(1, 1, 2), w(2, 3, 4), r(2, 5, 6), r(1, 7, 8)],
    "two readers that disagree on an order": [
        w(1, 1, 9),
        w(2, 1, 9, "b"),
        r(1, 2, 3, "c"),
        r(2, 4, 5, "c"),
        r(1, 6, 7, "d"),
    ],
    "a write that happens twice": [w(1, 1, 9), r(1, 2, 3), w(2, 4, 5, "b"), r(2, 6, 7), r(1, 8, 8.5)],
    "a write without an answer that happens twice": [w(1, 1, None), r(1, 2, 3), w(2, 4, 5, "b"), r(1, 6, 7)],
    "nothing of what was acknowledged": [w(1, 1, 2), w(2, 3, 4), w(3, 5, 6), r(0, 7, 8)],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_a_register_can_do(name: str) -> None:
    for order in itertools.islice(itertools.permutations(GOOD[name]), 24):  # the times decide, not the place in the list
        check(order)


@pytest.mark.parametrize("name", BAD)
def test_what_no_register_does(name: str) -> None:
    for order in itertools.islice(itertools.permutations(BAD[name]), 24):
        with pytest.raises(NotLinearizable):
            check(order)


def test_the_report_names_the_answer_and_what_was_possible() -> None:
    with pytest.raises(NotLinearizable, match=r"b read 0 .* held one of 2, and under way were: a write 3"):
        check([w(1, 1, 2), w(2, 3, 4), w(3, 4.5, 9), r(2, 5, 6), r(0, 7, 8)])


def _played(seed: int, clients: int, steps: int) -> list[Operation]:
    """A history of a real register: each request takes effect at one moment between call and answer."""
    chance = random.Random(seed)
    now, value, version = 0.0, 0, 0
    idle = [f"c{number}" for number in range(clients)]
    open_: list[list] = []  # type: ignore[type-arg]  # client, kind, value, begin, done
    history = []
    for _ in range(steps):
        now += 1
        choice = chance.random()
        if idle and choice < 0.4:
            version += 1
            kind = chance.choice(list(Kind))
            open_.append([idle.pop(), kind, version if kind is Kind.WRITE else None, now, False])
        elif open_ and choice < 0.7:
            request = chance.choice(open_)
            if not request[4]:
                request[4] = True
                if request[1] is Kind.WRITE:
                    value = request[2]
                else:
                    request[2] = value
        elif done := [each for each in open_ if each[4]]:
            request = chance.choice(done)
            open_.remove(request)
            idle.append(request[0])
            history.append(Operation(request[0], request[1], request[2], request[3], now))
    history += [Operation(*each[:4], None) for each in open_ if each[1] is Kind.WRITE]
    return history


@given(st.integers(0, 1 << 32), st.integers(1, 5), st.integers(0, 150))
def test_every_history_of_a_real_register_is_accepted(seed: int, clients: int, steps: int) -> None:
    check(_played(seed, clients, steps))


def _explained(history: list[Operation]) -> bool:
    """By definition: some order of all (and of some without an answer) that keeps to the times and is that of a register."""
    unsure = [each for each in history if each.end is None]
    sure = [each for each in history if each.end is not None]
    return any(
        _is_register(order)
        for count in range(len(unsure) + 1)
        for some in itertools.combinations(unsure, count)
        for order in itertools.permutations([*sure, *some])
    )


def _is_register(order: tuple[Operation, ...]) -> bool:
    value = 0
    for place, each in enumerate(order):
        if any(later.end is not None and later.end < each.begin for later in order[place + 1 :]):
            return False
        if each.kind is Kind.READ and each.value != value:
            return False
        value = each.value
    return True


operations = st.builds(
    lambda kind, value, begin, length, sure: Operation(
        "x", kind, value, begin, begin + length if sure or kind is Kind.READ else None
    ),
    st.sampled_from(Kind),
    st.integers(0, 2),
    st.integers(0, 12),
    st.integers(1, 6),
    st.booleans(),
)


@given(st.lists(operations, max_size=5))
def test_it_says_what_the_definition_says(history: list[Operation]) -> None:
    try:
        check(history)
    except NotLinearizable:
        assert not _explained(history)
    else:
        assert _explained(history)
