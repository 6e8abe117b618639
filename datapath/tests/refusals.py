# SPDX-License-Identifier: GPL-3.0-or-later
"""What must fail, and with an error that helps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cxl_datapath.errors import Code, DatapathError


def refused(code: Code, action: Callable[[], object]) -> DatapathError:
    with pytest.raises(DatapathError) as caught:
        action()
    assert caught.value.code == code, caught.value
    assert caught.value.hint, "an error without a next step"
    return caught.value
