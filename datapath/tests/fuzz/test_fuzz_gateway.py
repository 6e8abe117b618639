# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever an etcd answers: the lock is ours, or an error of the documented kinds says why it is not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from strategies import as_bytes, json_values, nearly

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.locks.etcd import EtcdLock
from cxl_datapath.locks.gateway import Gateway

NAME = "/cxl-lab/x"
GRANTED = {"header": {"revision": "3"}, "ID": "7587862072907233539", "TTL": "15"}
LOCKED = {"header": {"revision": "4"}, "key": "L2N4bC1sYWIveC82OTRkN2IyZg=="}  # /cxl-lab/x/694d7b2f

statuses = st.sampled_from([200, 200, 200, 200, 400, 404, 500, 0])
answers = st.tuples(
    statuses,
    st.one_of(nearly(GRANTED).map(as_bytes), nearly(LOCKED).map(as_bytes), json_values.map(as_bytes), st.binary(max_size=64)),
)


def _lock(said: list[tuple[int, bytes]]) -> DatapathError | None:
    """Takes the lock from an etcd that says this, and nothing sensible afterwards."""
    rest: Iterator[tuple[int, bytes]] = chain(said, repeat((500, b"{}")))

    def post(*_: Any) -> tuple[int, bytes]:
        return next(rest)

    with mock.patch.object(Gateway, "_post", post):
        lock = EtcdLock("http://localhost:2379", NAME)
        try:
            lock.acquire(1.0)
        except DatapathError as error:
            assert error.code in (Code.FAILED, Code.CORRUPT, Code.BUSY, Code.TIMEOUT)
            assert "etcd http://localhost:2379" in error.object
            return error
        lock.check()
        lock.release()
        return None


def test_what_is_changed_below_is_fine_as_it_is() -> None:
    assert _lock([(200, as_bytes(GRANTED)), (200, as_bytes(LOCKED))]) is None


@given(st.lists(answers, max_size=3))
def test_any_conversation_ends_as_documented(said: list[tuple[int, bytes]]) -> None:
    _lock(said)


@given(nearly(GRANTED).map(as_bytes))
def test_a_lease_that_is_nearly_one(raw: bytes) -> None:
    _lock([(200, raw), (200, as_bytes(LOCKED))])


@given(nearly(LOCKED).map(as_bytes))
def test_a_key_that_is_nearly_ours(raw: bytes) -> None:
    _lock([(200, as_bytes(GRANTED)), (200, raw)])
