# SPDX-License-Identifier: GPL-3.0-or-later
"""Two locks as one: a transport's claim and another lock beside it."""

from __future__ import annotations

import pytest
from refusals import refused

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.locks.base import Both


class Recorder:
    """A lock that writes down what is done with it; `fails` names what it refuses."""

    def __init__(self, name: str, log: list[str], fails: str = "", takes_s: float = 0.0) -> None:
        self.name, self.log, self.fails, self.takes_s = name, log, fails, takes_s
        self.patience: float | None = None
        self.now = [0.0]

    def _do(self, what: str) -> None:
        self.log.append(f"{what} {self.name}")
        if self.fails == what:
            raise DatapathError(Code.BUSY, self.name, "refused", "wait")

    def acquire(self, patience_s: float) -> None:
        self.patience = patience_s
        self.now[0] += self.takes_s
        self._do("acquire")

    def check(self) -> None:
        self._do("check")

    def release(self) -> None:
        self._do("release")


def both(log: list[str], first_fails: str = "", second_fails: str = "") -> Both:
    return Both(Recorder("first", log, first_fails), Recorder("second", log, second_fails))


def test_two_locks_are_taken_in_order_and_given_back_in_reverse():
    log: list[str] = []
    lock = both(log)
    lock.acquire(1)
    lock.check()
    lock.release()
    assert log == ["acquire first", "acquire second", "check first", "check second", "release second", "release first"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("acquire", "", ["acquire first"]),
        ("", "acquire", ["acquire first", "acquire second", "release first"]),
    ],
)
def test_one_lock_that_is_not_to_be_had_leaves_none(first, second, expected):
    log: list[str] = []
    refused(Code.BUSY, lambda: both(log, first, second).acquire(1))
    assert log == expected


@pytest.mark.parametrize(("first", "second"), [("check", ""), ("", "check")])
def test_one_lock_that_is_lost_is_enough(first, second):
    refused(Code.BUSY, both([], first, second).check)


def test_a_second_lock_that_cannot_be_given_back_does_not_keep_the_first():
    log: list[str] = []
    refused(Code.BUSY, both(log, "", "release").release)
    assert log == ["release second", "release first"]


def test_patience_is_for_both_together():
    first, second = Recorder("first", [], takes_s=3.0), Recorder("second", [])
    Both(first, second, clock=lambda: first.now[0]).acquire(5)
    assert (first.patience, second.patience) == (5, 2)
    Both(first, second, clock=lambda: first.now[0]).acquire(1)
    assert second.patience == 0
