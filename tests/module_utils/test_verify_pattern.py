# SPDX-License-Identifier: GPL-3.0-or-later
"""The pattern: what it consists of, what is taken for one, and how a difference is told."""

from __future__ import annotations

import io

import pytest
from ansible.module_utils.cxl_lab import verify_pattern
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.verify_pattern import BLOCK, Pattern
from hypothesis import given
from hypothesis import strategies as st

SEED = "0123456789abcdef" * 2
UUID = "01234567-89ab-cdef-0123-456789abcdef"
PATTERNS = st.builds(
    Pattern,
    st.text("0123456789abcdef", min_size=32, max_size=32),
    st.sampled_from(["", UUID]),
    st.integers(16, 1 << 24).map(lambda blocks: blocks * BLOCK),
)


def whole(pattern: Pattern) -> bytes:
    return b"".join(pattern.chunks())


@pytest.mark.parametrize("size", [64 << 10, 1 << 20, (1 << 20) + BLOCK, (3 << 20) - BLOCK])
def test_a_pattern_has_its_size_and_repeats_nothing(size):
    data = whole(Pattern(SEED, UUID, size))
    assert len(data) == size and data == whole(Pattern(SEED, UUID, size))
    blocks = [data[start : start + BLOCK] for start in range(0, size, BLOCK)]
    assert len(set(blocks)) == len(blocks), "a block in the place of another would not be noticed"
    other = whole(Pattern(SEED[::-1], UUID, size))
    assert not set(blocks) & {other[start : start + BLOCK] for start in range(0, size, BLOCK)}


@given(PATTERNS)
def test_a_header_says_what_follows(pattern):
    assert len(pattern.header) == BLOCK and verify_pattern.parse_header(pattern.header + b"more") == pattern


@given(PATTERNS, st.integers(0, BLOCK - 1), st.integers(1, 255))
def test_a_changed_header_is_none_or_another(pattern, place, flip):
    damaged = bytearray(pattern.header)
    damaged[place] ^= flip
    found = verify_pattern.parse_header(bytes(damaged))
    assert found is None or (found != pattern and found.header == bytes(damaged))


@given(st.binary(max_size=200))
def test_what_is_no_header_is_taken_for_none(block):
    assert verify_pattern.parse_header(block) is None
    assert verify_pattern.parse_header(b"# cxl.lab verification pattern\n" + block) is None


@pytest.mark.parametrize("size", [0, 4096, (64 << 10) - BLOCK, (64 << 10) + 1, (64 << 30) + BLOCK, 10**14])
def test_sizes_that_no_pattern_has(size):
    assert verify_pattern.parse_header(Pattern(SEED, "", size).header) is None
    with pytest.raises(LabError, match=f"{size} bytes are not possible"):
        verify_pattern.check_size(size)


def test_only_a_blank_device_or_ours_is_written_to():
    pattern = Pattern(SEED, UUID, 64 << 10)
    assert verify_pattern.carried("uri", bytes(1 << 20)) is None
    assert verify_pattern.carried("uri", whole(pattern)) == pattern
    for foreign in (bytes(BLOCK) + b"x", b"XFSB" + bytes(BLOCK), pattern.header[:-1] + b"x"):
        with pytest.raises(LabError, match=r"^uri: carries something that is not ours; use a blank device"):
            verify_pattern.carried("uri", foreign)


@given(st.lists(st.integers(0, 300), max_size=12, unique=True), st.integers(0, 300))
def test_every_bad_block_is_named_and_no_other(bad, cut):
    """301 blocks, so that the last piece is not a whole one; the file ends somewhere."""
    pattern = Pattern(SEED, UUID, 301 * BLOCK)
    data = bytearray(whole(pattern))
    for block in bad:
        data[block * BLOCK + 17] ^= 1
    del data[(301 - cut) * BLOCK :]
    ranges = verify_pattern.bad_ranges(io.BytesIO(bytes(data)), pattern)
    assert {offset for each in ranges for offset in each[::BLOCK]} == {
        block * BLOCK for block in range(301) if block in bad or block >= 301 - cut
    }
    assert all(first.stop < second.start for first, second in zip(ranges, ranges[1:])), "neighbours are one range"


def test_a_comparison_of_a_file(tmp_path):
    disk, pattern = tmp_path / "disk", Pattern(SEED, UUID, 1 << 20)
    disk.write_bytes(whole(pattern) + b"what lies behind does not matter")
    found, measured = verify_pattern.compare_path(str(disk), pattern.digest, "compare")
    assert found == pattern and (measured.what, measured.size) == ("compare", 1 << 20)
    with pytest.raises(LabError, match="another pattern than the one just written"):
        verify_pattern.compare_path(str(disk), Pattern(SEED, "", 1 << 20).digest, "compare")
    data = bytearray(disk.read_bytes())
    data[8192:12288] = bytes(4096)
    data[20480:28672] = bytes(8192)
    disk.write_bytes(data)
    with pytest.raises(LabError, match="differs from the pattern: 4096 bytes at 0x2000; 8192 bytes at 0x5000; look at"):
        verify_pattern.compare_path(str(disk), "", "compare")
    disk.write_bytes(bytes(8192))
    with pytest.raises(LabError, match="carries no verification pattern; write it first"):
        verify_pattern.compare_path(str(disk), "", "compare")
    with pytest.raises(LabError, match="cannot be read: No such file"):
        verify_pattern.compare_path(str(tmp_path / "none"), "", "compare")


def test_many_bad_places_are_counted(tmp_path):
    disk, pattern = tmp_path / "disk", Pattern(SEED, UUID, 1 << 20)
    data = bytearray(whole(pattern))
    for start in range(BLOCK, 40 * BLOCK, 2 * BLOCK):
        data[start] ^= 1
    disk.write_bytes(data)
    with pytest.raises(LabError, match="; and 10 more places; ") as caught:
        verify_pattern.compare_path(str(disk), "", "compare")
    assert len(caught.value.observed) == 20


@pytest.mark.parametrize(
    ("beginning", "looks"), [(b"somebody's", [BLOCK]), (bytes(BLOCK) + b"x", [BLOCK, 1 << 20]), (b"", [BLOCK, 1 << 20])]
)
def test_a_device_is_read_only_as_far_as_it_is_blank(beginning, looks, monkeypatch):
    seen = []

    def read(runner, uri, length):
        seen.append(length)
        return beginning.ljust(1 << 20, b"\0")[:length]

    monkeypatch.setattr(verify_pattern, "_beginning", read)
    monkeypatch.setattr(verify_pattern.nbd, "read_size", lambda runner, uri: 4 << 20)
    try:
        assert verify_pattern.observe(None, "nbd+unix://", 2 << 20) is None and not beginning
    except LabError as error:
        assert beginning and "not ours" in str(error)
    assert seen == looks
