# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes as people write them."""

from __future__ import annotations

import contextlib

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.sizes import format_size, parse_size
from hypothesis import example, given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 << 20),
        ("4 GiB", 4 << 30),
        ("4gb", 4 << 30),
        ("4096", 4096),
        (4096, 4096),
        (" 1k ", 1024),
        ("2T", 2 << 40),
        ("1B", 1),
    ],
)
def test_forms(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "value",
    ["", "M", "0", "0G", "-1", "1.5G", "1P", "1 G B", "1G\n2G", "0x10", "1e3", "5\u212a", 0, -1, 1.0, True, None, [], {}, b"1G"],
)
def test_no_size(value):
    with pytest.raises(LabError, match=r"^lsa: .* is no size; write it as") as caught:
        parse_size(value, "lsa")
    assert repr(value) in str(caught.value)


@given(st.integers(1, 10**15 - 1))
def test_the_short_form_means_the_same(size):
    assert parse_size(format_size(size)) == size
    assert len(format_size(size)) <= len(str(size))


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.from_regex(r"\d+\s*[KMGT]?i?B?", fullmatch=True)))
@example("9" * 16)
@example("5\u212a")
def test_any_value_is_a_positive_size_or_a_lab_error(value):
    with contextlib.suppress(LabError):
        assert parse_size(value) > 0


@pytest.mark.parametrize(("size", "text"), [(512 << 20, "512M"), (1000, "1000"), (1 << 40, "1T"), (1536, "1536"), (0, "0")])
def test_shortest_exact_form(size, text):
    assert format_size(size) == text
