# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims against what heads hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_mhsld_state import make

from cxl_datapath.errors import DatapathError
from cxl_datapath.mhsld.audit import Finding, audit
from cxl_datapath.mhsld.command import repaired
from cxl_datapath.mhsld.state import Span, StateFile

BLOCKS = 12


def test_nothing_to_find():
    assert audit([Span(2, 4, 1, 0), Span(8, 2, 0, 3)], {0: [(2, 4), (8, 2)], 1: [(8, 2)]}, BLOCKS) == []


@pytest.mark.parametrize(
    ("spans", "held", "findings"),
    [
        ([Span(2, 4, 1, 0)], {0: []}, [Finding("stale", 0, 2, 4)]),
        ([Span(2, 4, 1, 0)], {0: [(3, 2)]}, [Finding("stale", 0, 2, 1), Finding("stale", 0, 5, 1)]),
        ([], {1: [(0, 3)]}, [Finding("unclaimed", 1, 0, 3)]),
        ([Span(0, 2, 1, 0)], {0: [(0, 2)], 1: [(1, 2)]}, [Finding("conflict", 1, 1, 1, 1), Finding("unclaimed", 1, 2, 1)]),
        ([], {0: [(0, 1)], 1: [(0, 1)]}, [Finding("conflict", 0, 0, 1, 2), Finding("conflict", 1, 0, 1, 1)]),
        ([Span(2, 4, 2, 0)], {0: []}, []),  # head 1 is not judged
        ([Span(0, 1, 0, 3)], {0: [], 1: [(0, 1)]}, [Finding("stale", 0, 0, 1)]),
    ],
)
def test_findings(spans, held, findings):
    assert audit(spans, held, BLOCKS) == findings


ranges = st.lists(
    st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 4)).map(lambda r: (r[0], min(r[1], BLOCKS - r[0]))), max_size=3
)


@given(st.lists(st.tuples(st.integers(0, 2), ranges), max_size=3), st.dictionaries(st.integers(0, 2), ranges))
def test_after_a_repair_only_conflicts_are_left(tmp_path_factory, claims, held):
    with StateFile(make(tmp_path_factory.mktemp("audit") / "s", BLOCKS, 3)) as state:
        for head, wanted in claims:
            for each in wanted:
                try:
                    state.claim(head, [each])
                except DatapathError:
                    continue
        left = repaired(state, held, audit(state.spans(), held, BLOCKS))
        assert {finding.kind for finding in left} <= {"conflict"}
        assert left == audit(state.spans(), held, BLOCKS)
