# SPDX-License-Identifier: GPL-3.0-or-later
"""The planner of areas."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxl_datapath.cbd.geometry import FormatOptions, channel_size, plan, rings_end
from cxl_datapath.errors import Code, DatapathError

options = st.builds(
    FormatOptions,
    hosts=st.integers(-1, 1025),
    backends=st.integers(0, 64),
    blkdevs=st.integers(0, 64),
    channels=st.none() | st.integers(0, 5000),
    ring_depth=st.integers(0, 2048) | st.sampled_from([2, 16, 64, 1024]),
    slot_bytes=st.integers(0, 1 << 21) | st.sampled_from([4096, 65536, 1 << 20]),
)


@given(options, st.integers(0, 1 << 36))
def test_a_plan_fits_or_is_refused(chosen, size):
    try:
        planned = plan(chosen, size)
    except DatapathError as error:
        assert error.code in (Code.INVALID, Code.RANGE)
        return
    planned.check()
    assert planned.hosts_off == 8192
    assert planned.channels_off % 4096 == 0
    assert planned.channel_off(planned.channel_count) <= size == planned.total_size
    assert planned.channel_count == chosen.channels if chosen.channels else planned.channel_count <= 64


def test_defaults_take_as_many_channels_as_fit():
    one = channel_size(64, 65536)
    base = plan(FormatOptions(), 1 << 30).channels_off
    assert plan(FormatOptions(), base + 3 * one).channel_count == 3
    assert plan(FormatOptions(), base + 4 * one - 4096).channel_count == 3
    assert plan(FormatOptions(), 1 << 40).channel_count == 64


def test_the_format_document_by_hand():
    """4 KiB of control, two rings of 64 x 64, request and response data of 64 x 64 KiB."""
    assert channel_size(64, 65536) == 4096 + 2 * 4096 + 2 * 64 * 65536
    assert channel_size(2, 4096) == 4096 + 2 * 4096 + 2 * 2 * 4096
    assert rings_end(1024) == 4096 + 2 * 65536


def test_a_memory_that_is_too_small_says_what_is_needed():
    with pytest.raises(DatapathError) as caught:
        plan(FormatOptions(channels=8), 16 << 20)
    assert caught.value.code == Code.RANGE
    assert str(plan(FormatOptions(), 1 << 30).channels_off + 8 * channel_size(64, 65536)) in caught.value.message


@pytest.mark.parametrize(
    ("chosen", "size", "hint"),
    [
        (FormatOptions(channels=8), 32 << 20, "choose at most 3 channel(s)"),
        (FormatOptions(), 4 << 20, "choose for example ring_depth 16 with slot_bytes 65536"),
        (FormatOptions(), 192 << 10, "choose at most 39 hosts, backends and blkdevs together"),
        (FormatOptions(), 40 << 10, "it is too small whatever is chosen: the smallest transport takes 49152 bytes"),
    ],
)
def test_a_memory_that_is_too_small_says_what_would_fit(chosen, size, hint):
    with pytest.raises(DatapathError) as caught:
        plan(chosen, size)
    assert caught.value.hint.startswith(hint)


@given(options, st.integers(0, 1 << 26))
def test_what_the_hint_proposes_really_fits(chosen, size):
    try:
        plan(chosen, size)
        return
    except DatapathError as error:
        if error.code != Code.RANGE:
            return
        hint = error.hint
    numbers = list(map(int, re.findall(r"[0-9]+", hint)))
    if "channel(s)" in hint:
        plan(replace(chosen, channels=numbers[0]), size)
    elif "for example" in hint:
        plan(replace(chosen, channels=1, ring_depth=numbers[0], slot_bytes=numbers[1]), size)
    elif "together" in hint:
        few = {"hosts": numbers[0] - 2, "backends": 1, "blkdevs": 1}
        plan(replace(chosen, **few, channels=1, ring_depth=2, slot_bytes=4096), size)
    else:
        assert size < numbers[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hosts", 0),
        ("backends", 1025),
        ("blkdevs", 0),
        ("channels", 0),
        ("ring_depth", 48),
        ("slot_bytes", 4097),
        ("slot_bytes", 2 << 20),
    ],
)
def test_a_wrong_option_is_named(field, value):
    with pytest.raises(DatapathError) as caught:
        plan(FormatOptions(**{field: value}), 1 << 30)
    assert (caught.value.code, caught.value.object) == (Code.INVALID, field)
