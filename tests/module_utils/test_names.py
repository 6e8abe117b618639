# SPDX-License-Identifier: GPL-3.0-or-later
"""Names go into command lines, files, XML and QMP: nothing in them may mean anything there."""

from __future__ import annotations

import string

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.names import check_name
from hypothesis import given
from hypothesis import strategies as st
from labs import names

BAD = [
    "",
    "../x",
    "a b",
    "-x",
    "_x",
    "1a",
    "A",
    "a.b",
    "a/b",
    "a,b",
    "a=b",
    "a\n",
    "é",
    "a\u0131",
    "a" * 33,
    None,
    1,
    True,
    ["a"],
    {"a": 1},
    b"a",
]


@pytest.mark.parametrize("value", BAD)
def test_bad_names(value):
    with pytest.raises(LabError, match="lower-case letter") as caught:
        check_name(value, "hosts[0].name")
    assert str(caught.value).startswith(f"hosts[0].name: {value!r}")


@pytest.mark.parametrize("value", ["a", "node1", "a-b", "a_b", "a" * 32])
def test_good_names(value):
    assert check_name(value, "lab") == value


@given(st.one_of(st.text(), names))
def test_what_passes_is_harmless(value):
    try:
        name = check_name(value, "lab")
    except LabError:
        return
    assert (
        set(name) <= set(string.ascii_lowercase + string.digits + "_-") and name[0] in string.ascii_lowercase and len(name) <= 32
    )
