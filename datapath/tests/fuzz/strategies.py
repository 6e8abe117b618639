# SPDX-License-Identifier: GPL-3.0-or-later
"""What a stranger may send: JSON of any shape, good JSON with something else in one place, numbers at edges."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

EDGES = [0, 1, 2, 3, 15, 16, 17, 63, 64, 255, 511, 512, 1023, 1024, 4095, 4096, 65535, 65536]
EDGES += [(1 << power) + step for power in (20, 31, 32, 40, 56, 63, 64) for step in (-1, 0, 1)]
numbers = st.sampled_from(EDGES) | st.integers(-(1 << 70), 1 << 70)
words = st.sampled_from(
    ["", "0", "-1", "pool0", "auto", "/", "/..", "/dev/null", "control", "serial:0x1", "\0", "\ud800", "a" * 300]
)
scalars = st.none() | st.booleans() | numbers | st.floats() | words | st.text(max_size=20)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inside for place in _places(each, (*path, key)))]


@st.composite
def nearly(draw: st.DrawFn, good: Any) -> Any:
    """`good` with another value, or nothing, in up to three places."""
    root = [copy.deepcopy(good)]
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(root)[1:]))
        holder: Any = root
        for key in path[:-1]:
            holder = holder[key]
        if path[:-1] and draw(st.integers(0, 4)) == 0:
            del holder[path[-1]]
        else:
            holder[path[-1]] = draw(json_values)
    return root[0]


def as_bytes(value: Any) -> bytes:
    """As a careless program writes it: NaN and lone surrogates included."""
    return json.dumps(value).encode()
