# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cbd modules have in common: a daemon to ask, a plan of calls, and a result that is read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from .cxl_lab.cbd import Call, Row, check_rows
from .cxl_lab.datapath_client import RUNTIME_DIR, DaemonAbsent, DatapathClient
from .cxl_lab.errors import LabError

#: The option by which every cbd module finds the daemon.
RUNTIME_OPTION = {"runtime_dir": {"type": "path", "default": RUNTIME_DIR}}


@dataclass(frozen=True)
class Goal:
    """What a module wants of the daemon.

    ``noun`` is the key of the result; ``observe`` asks the daemon; ``plan`` (pure) gives the calls; ``show`` gives the object
    out of what was observed; ``wanted`` is what the object will be, as far as that is known, or None for none.
    """

    subject: str
    noun: str
    observe: Callable[[DatapathClient], Any]
    plan: Callable[[Any], list[Call]]
    show: Callable[[Any], Row | None]
    wanted: Row | None


def reach(
    module: AnsibleModule, goal: Goal, before_plan: Callable[[DatapathClient], None] = lambda client: None
) -> dict[str, Any]:
    """observe -> plan -> apply -> read back.

    :param before_plan: waits for what has to be there first; not called in check mode.
    """
    try:
        client = DatapathClient(module.params["runtime_dir"])
    except DaemonAbsent:
        # A lab that is not built yet: everything that is wanted would be made, nothing could be removed.
        if not module.check_mode:
            raise
        steps = [f"bring {goal.subject} up when the daemon runs"] if goal.wanted else []
        return _result(goal, None, goal.wanted, steps)
    with client:
        if not module.check_mode:
            before_plan(client)
        have = goal.observe(client)
        before, calls = goal.show(have), goal.plan(have)
        after = before
        if calls and module.check_mode:
            after = {**(before or {}), **goal.wanted} if goal.wanted else None
        elif calls:
            for call in calls:
                client.call(call.method, **call.params)
            have = goal.observe(client)
            after = goal.show(have)
            if goal.plan(have):
                raise LabError(
                    goal.subject, "is not as wanted after the daemon said that it is", "look at its log", observed=after
                )
    return _result(goal, before, after, [call.what for call in calls])


def rows(client: DatapathClient, method: str, **params: Any) -> list[Row]:
    """What a list method of the daemon returns."""
    return check_rows(client.call(method, **params), method)


def rows_in(client: DatapathClient, transport: str, method: str, *, need: bool) -> list[Row]:
    """The same for a list of what is in a transport.

    :param need: whether this host has to be registered in it; if not, a transport that it does not know has nothing in it.
    :raises LabError: when it has to be and is not.
    """
    if any(row.get("name") == transport for row in rows(client, "cbd.transport.list")):
        return rows(client, method, transport=transport)
    if need:
        step = "register it first (cbd_transport, state: registered)"
        raise LabError(f"transport {transport}", "this host is not registered in it", step)
    return []


def _result(goal: Goal, before: Row | None, after: Row | None, steps: list[str]) -> dict[str, Any]:
    return {
        "changed": bool(steps),
        goal.noun: after,
        "steps": steps,
        "diff": {"before": {goal.noun: before}, "after": {goal.noun: after}},
    }
