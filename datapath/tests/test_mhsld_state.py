# SPDX-License-Identifier: GPL-3.0-or-later
"""State files of multi-headed devices: format, claims against a model, and files that are not what they should be."""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.mhsld.layout import HEADER, PAGE, Layout, pack, plan_layout, unpack
from cxl_datapath.mhsld.state import StateFile, create

MIB = 1 << 20
BLOCK = 2 * MIB


def make(path: Path, blocks: int = 32, heads: int = 8, names: tuple[str, ...] = ()) -> Path:
    assert create(path, plan_layout(blocks * BLOCK, BLOCK, [*names, *[""] * (heads - len(names))]))
    return path


@pytest.mark.parametrize(("heads", "word"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 4), (32, 4), (33, 8), (64, 8)])
def test_words_have_a_bit_for_every_head(tmp_path, heads, word):
    with StateFile(make(tmp_path / "s", heads=heads)) as state:
        assert state.layout.word_bytes == word and len(state.layout.heads) == heads
        state.claim(heads - 1, [(0, 32)])
        assert [(span.first, span.count, span.exclusive) for span in state.spans()] == [(0, 32, 1 << heads - 1)]


@given(
    st.integers(1, 64),
    st.integers(1, 5000),
    st.sampled_from([64, 4096, BLOCK, 1 << 30]),
    st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True).filter(lambda name: not name.isdigit()),
        max_size=64,
        unique=True,
    ),
)
def test_a_layout_survives_its_bytes(heads, blocks, block, names):
    layout = plan_layout(blocks * block, block, [*names[:heads], *[""] * (heads - len(names))])
    raw = pack(layout)
    assert len(raw) == layout.exclusive_off and unpack(raw, layout.file_bytes, "s") == layout
    assert layout.exclusive_off % PAGE == layout.shared_off % PAGE == 0
    assert layout.exclusive_off + layout.blocks * layout.word_bytes <= layout.shared_off


@pytest.mark.parametrize(
    ("size", "block", "heads"),
    [
        (0, BLOCK, 1),
        (BLOCK + 1, BLOCK, 1),
        (BLOCK, 3 << 20, 1),
        (BLOCK, 32, 1),
        (BLOCK, BLOCK, 0),
        (BLOCK, BLOCK, 65),
        (1 << 50, 64, 1),
    ],
)
def test_what_cannot_be_is_refused(size, block, heads):
    with pytest.raises(DatapathError) as caught:
        plan_layout(size, block, [""] * heads)
    assert caught.value.code == Code.INVALID and caught.value.hint


def test_names_are_checked():
    for names in (["a", "a"], ["a b"], ["x" * 64]):
        with pytest.raises(DatapathError):
            plan_layout(BLOCK, BLOCK, names)


HEAD = bytearray(pack(Layout(UUID(int=7), ("node1", "node2", ""), BLOCK, 100)))
SIZE = plan_layout(100 * BLOCK, BLOCK, ["", "", ""]).file_bytes


@given(st.integers(0, HEADER.size + 3), st.integers(1, 255))
def test_a_flipped_byte_of_the_header_is_found(place, change):
    damaged = bytearray(HEAD)
    damaged[place] ^= change
    with pytest.raises(DatapathError):
        unpack(bytes(damaged), SIZE, "s")


@given(st.binary(max_size=PAGE + 300), st.integers(0, 1 << 40), st.booleans())
def test_any_bytes_are_an_error_and_never_more(raw, size, ours):
    with pytest.raises(DatapathError):
        unpack((bytes(HEAD[:12]) if ours else b"") + raw, size, "s")


def test_hostile_files_say_what_they_are(tmp_path):
    def refused(path: Path) -> DatapathError:
        with pytest.raises(DatapathError) as caught:
            StateFile(path)
        assert str(path) in str(caught.value) and caught.value.hint
        return caught.value

    good = make(tmp_path / "good").read_bytes()
    other = tmp_path / "version"
    other.write_bytes(good[:8] + struct.pack("<I", 9) + good[12:])
    assert "version 9, this program knows 1" in str(refused(other)) and refused(other).code == Code.UNSUPPORTED
    for name, content in {"short": good[:-1], "cut": good[:100], "long": good + b"\0"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert refused(path).code == Code.CORRUPT
    for name, content in {"empty": b"", "text": b"hello" * 2000}.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert "no state file" in str(refused(path))
    assert refused(tmp_path / "missing").code == Code.NOT_FOUND
    (tmp_path / "link").symlink_to(tmp_path / "good")
    refused(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in str(refused(tmp_path / "pipe"))


def test_one_of_many_creates_it_and_all_find_it_whole(tmp_path):
    path = tmp_path / "s"
    layouts = [plan_layout(64 * BLOCK, BLOCK, [""] * 16) for _ in range(16)]

    def one(layout: Layout) -> tuple[bool, str]:
        made = create(path, layout)
        with StateFile(path) as state:
            return made, str(state.layout.uuid)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, layouts))
    assert sum(made for made, _ in results) == 1 and len({number for _, number in results}) == 1
    assert list(tmp_path.iterdir()) == [path], "nothing is left beside it"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_conflict_names_the_head_and_leaves_nothing(tmp_path):
    with StateFile(make(tmp_path / "s", names=("node1", "node2"))) as state:
        state.claim(0, [(8, 4)])
        with pytest.raises(DatapathError) as caught:
            state.claim(1, [(0, 2), (4, 8)])
        assert caught.value.code == Code.BUSY and "block 8 (at 0x1000000) belongs to node1" in str(caught.value)
        with pytest.raises(DatapathError, match="belongs to head node1 itself"):
            state.claim(0, [(11, 3)])
        with pytest.raises(DatapathError):
            state.claim(1, [(20, 4), (22, 4)])  # its own ranges overlap
        assert [(span.first, span.count, span.holders) for span in state.spans()] == [(8, 4, 1)]


def test_shared_claims_stand_beside_shared_ones_only(tmp_path):
    with StateFile(make(tmp_path / "s")) as state:
        state.claim(0, [(0, 8)], shared=True)
        state.claim(5, [(4, 8)], shared=True)
        for head, shared in ((1, False), (0, False), (0, True)):
            with pytest.raises(DatapathError):
                state.claim(head, [(0, 1)], shared)
        state.claim(1, [(12, 1)])
        with pytest.raises(DatapathError, match="belongs to 1;"):
            state.claim(2, [(12, 1)], shared=True)
        assert [(span.first, span.count, span.shared) for span in state.spans()] == [
            (0, 4, 1),
            (4, 4, 33),
            (8, 4, 32),
            (12, 1, 0),
        ]


def test_ranges_and_heads_that_are_not_there(tmp_path):
    with StateFile(make(tmp_path / "s", blocks=8, heads=4, names=("a",))) as state:
        for wanted in ((8, 1), (0, 9), (-1, 2), (0, 0), (1 << 62, 1 << 62)):
            with pytest.raises(DatapathError):
                state.claim(0, [wanted])
        for head in (4, -1, "b", "", True):
            with pytest.raises(DatapathError, match=r"has no head .* it has a, 1, 2, 3"):
                state.head(head)
        assert state.spans() == [] and state.head("a") == 0


HEADS, BLOCKS = 64, 24
act = st.tuples(
    st.sampled_from(["claim", "claim shared", "release", "clear"]),
    st.integers(0, HEADS - 1) | st.sampled_from([0, 1, 63]),
    st.integers(0, BLOCKS - 1),
    st.integers(1, BLOCKS),
)


@settings(max_examples=60)
@given(acts=st.lists(act, max_size=40))
def test_against_a_model(tmp_path_factory, acts):
    path = make(tmp_path_factory.mktemp("model") / "s", BLOCKS, HEADS)
    model: dict[int, tuple[str, set[int]]] = {}  # block -> kind, heads
    with StateFile(path) as state:
        for name, head, first, length in acts:
            blocks = range(first, min(first + length, BLOCKS))
            if name.startswith("claim"):
                shared = name.endswith("shared")
                free = all(
                    block not in model or (shared and model[block][0] == "shared" and head not in model[block][1])
                    for block in blocks
                )
                try:
                    state.claim(head, [(first, len(blocks))], shared)
                    assert free
                    for block in blocks:
                        kind = "shared" if shared else "exclusive"
                        model[block] = (kind, model.get(block, (kind, set()))[1] | {head})
                except DatapathError as error:
                    assert error.code == Code.BUSY and not free
            else:
                blocks = range(BLOCKS) if name == "clear" else blocks
                had = sum(block in model and head in model[block][1] for block in blocks)
                assert (state.clear(head) if name == "clear" else state.release(head, [(first, len(blocks))])) == had
                for block in blocks:
                    if block in model:
                        model[block][1].discard(head)
                        if not model[block][1]:
                            del model[block]
            seen = {
                block: ("shared" if span.shared else "exclusive", {h for h in range(HEADS) if span.holders >> h & 1})
                for span in state.spans()
                for block in range(span.first, span.first + span.count)
            }
            assert seen == model
