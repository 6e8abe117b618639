# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user reads, and what goes beside it."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.errors import LabError


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("host a", "is off"), "host a: is off"),
        (("host a", "is off", "start it"), "host a: is off; start it"),
        (("", "is off"), ": is off"),
    ],
)
def test_message_is_object_problem_and_next_step(arguments, text):
    error = LabError(*arguments)
    assert str(error) == text and error.args == (text,)


def test_details_hold_only_what_is_known():
    assert LabError("host a", "is off").details() == {}
    known = LabError("host a", "is off", cmd=("virsh", "start"), rc=0, stderr="", observed=[])
    assert known.details() == {"cmd": ["virsh", "start"], "rc": 0, "stderr": "", "observed": []}
