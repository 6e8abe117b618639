# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for the power of machines."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.topology.plan import Seen
from ansible.module_utils.cxl_lab.topology.power import check_hosts, plan_power
from hypothesis import given
from hypothesis import strategies as st

STATES = ("running", "paused", "off", "crashed")


def plan(state, *, want):
    return [step.action for step in plan_power("demo", ["node1"], want, {"node1": Seen(state, {}, 0)})]


@pytest.mark.parametrize(
    ("want", "state", "actions"),
    [
        ("off", "running", ["stop"]),
        ("off", "paused", ["stop"]),
        ("off", "crashed", ["stop"]),
        ("off", "off", []),
        ("on", "running", []),
        ("on", "paused", ["resume"]),
        ("on", "off", ["start"]),
        ("on", "crashed", ["stop", "start"]),
        ("reset", "running", ["reset"]),
        ("reset", "paused", ["reset", "resume"]),
    ],
)
def test_what_has_to_be_done(want, state, actions):
    assert plan(state, want=want) == actions


@pytest.mark.parametrize("state", ["off", "crashed"])
def test_what_does_not_run_cannot_be_reset(state):
    with pytest.raises(LabError, match=f"host node1: is {state} and cannot be reset; switch it on"):
        plan(state, want="reset")


def test_a_host_that_the_lab_does_not_have():
    seen = {"node1": Seen("running", {}, 0), "node2": Seen("off", {}, 0)}
    with pytest.raises(LabError, match=r"host node9: lab demo has no machine of this name .*; it has node1, node2$"):
        plan_power("demo", ["node1", "node9"], "off", seen)
    with pytest.raises(LabError, match=r"it has none: it is not built$"):
        plan_power("demo", ["node1"], "off", {})


def test_names_of_hosts():
    assert check_hosts(["b", "a", "b"]) == ["b", "a"]
    with pytest.raises(LabError, match="no valid name"):
        check_hosts(["../x"])


@given(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(STATES)), st.sampled_from(["off", "on"]))
def test_the_plan_leads_to_the_state_and_touches_no_other(states, want):
    after = {"stop": "off", "start": "running", "resume": "running"}
    hosts = sorted(states)[::2]
    reached = dict(states)
    for step in plan_power("demo", hosts, want, {name: Seen(state, {}, 0) for name, state in states.items()}):
        reached[step.host] = after[step.action]
    assert all(reached[host] == ("off" if want == "off" else "running") for host in hosts)
    assert all(reached[host] == states[host] for host in set(states) - set(hosts))
