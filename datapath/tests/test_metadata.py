# SPDX-License-Identifier: GPL-3.0-or-later
"""Two copies: whatever is torn or flipped, the last good state stays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ram import Crash, Ram

from cxl_datapath.cbd.metadata import CopyPair, seal, unseal
from cxl_datapath.errors import Code, DatapathError

LENGTH = 1024


def pair(ram: Ram) -> CopyPair:
    return CopyPair(ram, 0, LENGTH, b"CXHO", "host 0")


@pytest.mark.parametrize("written", [0, 1, 2, 3])
@pytest.mark.parametrize("cut", range(0, LENGTH, 8))
def test_a_torn_write_loses_nothing(written, cut):
    ram = Ram(2 * LENGTH)
    for number in range(written):
        pair(ram).write(f"state {number}".encode())
    ram.budget = cut
    with pytest.raises(Crash):
        pair(ram).write(b"state new, longer than the others " * 20)
    ram.budget = None
    seen = pair(ram).read()
    # All bytes that matter may have arrived before the cut: then the new state is whole, never a mixture.
    assert seen in (f"state {written - 1}".encode() if written else None, b"state new, longer than the others " * 20)
    pair(ram).write(b"state after")
    assert pair(ram).read() == b"state after"


@given(st.lists(st.binary(max_size=LENGTH - 32), min_size=1, max_size=6))
def test_the_last_write_wins_and_is_in_both_copies(payloads):
    ram = Ram(2 * LENGTH)
    for number, payload in enumerate(payloads):
        pair(ram).write(payload)
        assert pair(ram).read() == payload
        copies = [unseal(b"CXHO", ram.read(offset, LENGTH)) for offset in (0, LENGTH)]
        assert [copy.payload for copy in copies] == [payload, payload]
        assert {copy.seq for copy in copies} == {2 * number + 1, 2 * number + 2}


@given(st.integers(1, 3), st.integers(0, 2 * LENGTH * 8 - 1))
def test_a_flipped_bit_in_either_copy_brings_no_older_state_back(writes, bit):
    ram = Ram(2 * LENGTH)
    for number in range(writes):
        pair(ram).write(f"state {number}".encode())
    ram.data[bit // 8] ^= 1 << bit % 8
    assert pair(ram).read() == f"state {writes - 1}".encode()
    pair(ram).write(b"after")
    ram.data[LENGTH - bit // 8 % LENGTH] ^= 1
    assert pair(ram).read() == b"after"


WRITES = st.tuples(st.just("write"), st.binary(max_size=40))
FLIPS = st.tuples(st.just("flip"), st.integers(0, 16 * LENGTH - 1))


@given(st.lists(WRITES | FLIPS, max_size=12))
def test_who_looks_again_and_again_sees_what_a_newcomer_sees(edits):
    def look(reader: CopyPair) -> object:
        try:
            return reader.read()
        except DatapathError as error:
            return error.code

    ram = Ram(2 * LENGTH)
    watcher = pair(ram)
    for kind, what in edits:
        if kind == "write":
            pair(ram).write(what)
        else:
            ram.data[what // 8] ^= 1 << what % 8
        assert look(watcher) == look(pair(ram))
        assert look(watcher) == look(pair(ram))


def test_two_damaged_copies_are_an_error_that_says_so():
    ram = Ram(2 * LENGTH)
    pair(ram).write(b"old")
    pair(ram).write(b"new")
    ram.data[40] ^= 1
    ram.data[LENGTH + 40] ^= 1
    with pytest.raises(DatapathError) as caught:
        pair(ram).read()
    assert (caught.value.code, caught.value.object) == (Code.CORRUPT, "host 0")


def test_another_version_is_refused():
    ram = Ram(2 * LENGTH)
    ram.write(0, seal(b"CXHO", 1, b"later", LENGTH, version=3))
    with pytest.raises(DatapathError) as caught:
        pair(ram).read()
    assert caught.value.code == Code.UNSUPPORTED
    assert "version 3" in caught.value.message


@given(
    st.binary(min_size=2 * LENGTH, max_size=2 * LENGTH)
    | st.integers(0, 1 << 32).map(lambda n: n.to_bytes(8, "little") * (LENGTH // 4))
)
def test_random_memory_never_does_more_than_raise_ours(raw):
    ram = Ram(2 * LENGTH)
    ram.write(0, raw)
    try:
        pair(ram).read()
    except DatapathError as error:
        assert error.code in (Code.CORRUPT, Code.UNSUPPORTED)
