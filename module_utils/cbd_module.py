# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cbd modules have in common: a daemon to ask, a list of objects, a plan of calls for each, and a result that is read
back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from .cxl_lab.cbd import Call, Row, Seen, beating, call_seconds, check_rows, wait_seconds
from .cxl_lab.datapath_client import RUNTIME_DIR, DaemonAbsent, DatapathClient
from .cxl_lab.errors import LabError
from .cxl_lab.progress import progress
from .cxl_lab.waiting import poll

#: The option by which every cbd module finds the daemon.
RUNTIME_OPTION = {"runtime_dir": {"type": "path", "default": RUNTIME_DIR}}
#: The options of those that wait for the death of a host: how long that may take depends on the leases.
DEATH_OPTION = {"wait_living": {"type": "bool", "default": False}, "wait_timeout": {"type": "float"}}


def observe(client: DatapathClient, wants: list[Any]) -> Seen:
    """The transports of this host with all that is in them."""
    return {"transports": check_rows(client.call("status").get("transports"), "status")}


@dataclass(frozen=True)
class Kind:
    """One kind of object, as its file in cxl_lab plans it.

    ``noun`` is the name of the list, in the arguments and in the result. ``parse`` checks an entry of it and makes a want of it:
    an object with ``subject`` for messages and ``wanted``, what the object will be (None for none). ``check`` compares
    them with each other. ``plan`` (pure) gives the calls for a want, ``find`` what there is of it, ``shown`` the keys that a
    difference shows. ``remarks`` are warnings about what is there beside what is wanted.
    """

    noun: str
    parse: Callable[[Row], Any]
    check: Callable[[list[Any]], None]
    plan: Callable[[Any, Seen, bool], list[Call]]
    find: Callable[[Any, Seen], list[Row]]
    shown: tuple[str, ...]
    observe: Callable[[DatapathClient, list[Any]], Seen] = observe
    remarks: Callable[[list[Any], Seen], list[str]] = lambda wants, seen: []


def reach(module: AnsibleModule, kind: Kind) -> dict[str, Any]:
    """Observe, plan for the whole list, apply, read back. Nothing is changed unless every entry has a plan."""
    wants = [kind.parse(item) for item in module.params[kind.noun]]
    kind.check(wants)
    try:
        client = DatapathClient(module.params["runtime_dir"])
    except DaemonAbsent:
        # A lab that is not built yet: everything that is wanted would be made, nothing could be removed.
        if not module.check_mode:
            raise
        made = [want for want in wants if want.wanted]
        steps = [f"bring {want.subject} up when the daemon runs" for want in made]
        return _result(kind, {}, {want.subject: [want.wanted] for want in made}, steps)
    with client:
        return _reach(module, kind, wants, client)


def _reach(module: AnsibleModule, kind: Kind, wants: list[Any], client: DatapathClient) -> dict[str, Any]:
    plan = partial(_plan, kind, wants, module.check_mode)
    first = kind.observe(client, wants)
    looks = [first]
    patience = _patience(module, first)

    def look() -> Seen:
        return looks.pop() if looks else kind.observe(client, wants)

    def living(now: Seen) -> set[str]:
        """Hosts for whose death nobody should wait."""
        return set() if module.params.get("wait_living") else beating(first, now)

    def done(now: Seen) -> bool:
        waiting = [call for _, call in plan(now) if call.waits_for]
        if waiting:
            progress(f"waiting for {waiting[0].waits_for}")
        return not waiting or any(call.death_of in living(now) for call in waiting)

    seen, _ = poll(look, done, timeout=0 if module.check_mode else patience, sleep=module.params.get("wait_sleep", 0))
    calls = plan(seen)
    before = {want.subject: kind.find(want, seen) for want in wants}
    if module.check_mode:
        changing = {id(want) for want, _ in calls}
        after = {want.subject: _foreseen(want, before) if id(want) in changing else before[want.subject] for want in wants}
    else:
        _must_not_wait(patience, calls, seen, living(seen))
        client.set_timeout(call_seconds(_infos(seen)))
        _apply(client, calls)
        seen = kind.observe(client, wants) if calls else seen
        after = {want.subject: kind.find(want, seen) for want in wants}
        for want, _ in plan(seen):
            problem = "is not as wanted after the daemon said that it is"
            raise LabError(want.subject, problem, "look at its log", observed=after[want.subject])
    for remark in kind.remarks(wants, seen):
        module.warn(remark)
    return _result(kind, before, after, [call.what for _, call in calls])


def _plan(kind: Kind, wants: list[Any], foresee: bool, seen: Seen) -> list[tuple[Any, Call]]:
    return [(want, call) for want in wants for call in kind.plan(want, seen, foresee)]


def _patience(module: AnsibleModule, seen: Seen) -> float:
    if not module.params.get("wait"):
        return 0.0
    chosen = module.params["wait_timeout"]
    return wait_seconds(_infos(seen)) if chosen is None else float(chosen)


def _must_not_wait(patience: float, calls: list[tuple[Any, Call]], seen: Seen, living: set[str]) -> None:
    for want, call in calls:
        if call.waits_for and call.death_of in living:
            step = f"{call.hint}; while it is being stopped: wait_living: true (of playbooks/recover.yml: -e recover_wait=true)"
            raise LabError(want.subject, f"host {call.death_of} is alive, its heartbeat moves", step, observed=seen)
    for want, call in calls:
        if call.waits_for:
            raise LabError(want.subject, f"waited {patience:.0f} s for {call.waits_for}", call.hint, observed=seen)


def _apply(client: DatapathClient, calls: list[tuple[Any, Call]]) -> None:
    """Does the calls in order; an error tells what was done before it."""
    done: list[str] = []
    for _, call in calls:
        try:
            client.call(call.method, **call.params)
        except LabError as error:
            error.observed, error.changed = {"error": error.observed, "done": done}, bool(done)
            raise
        done.append(call.what)


def _foreseen(want: Any, before: dict[str, list[Row]]) -> list[Row]:
    have = before[want.subject]
    known = {key: value for key, value in (have[0] if have else {}).items() if key != "worker"}  # how its start ends nobody knows
    return [{**known, **want.wanted}] if want.wanted else []


def _infos(seen: Seen) -> list[Row]:
    """Every transport of which something is known, registered or not."""
    probes = seen.get("probes", {}).values()
    return [*seen["transports"], *(probe["info"] for probe in probes if isinstance(probe.get("info"), dict))]


def _pick(row: Row, keys: tuple[str, ...]) -> Row:
    """Some keys; and the state of a worker that does not run, which can be all that a change is about."""
    picked, worker = {key: row[key] for key in keys if key in row}, row.get("worker")
    stands = isinstance(worker, dict) and worker.get("state") != "running"
    return picked | {"worker": worker["state"]} if stands and "state" in worker else picked


def _result(kind: Kind, before: dict[str, list[Row]], after: dict[str, list[Row]], steps: list[str]) -> dict[str, Any]:
    def shown(state: dict[str, list[Row]]) -> dict[str, list[Row]]:
        return {subject: [_pick(row, kind.shown) for row in rows] for subject, rows in state.items() if rows}

    return {
        "changed": bool(steps),
        kind.noun: [row for rows in after.values() for row in rows],
        "gone": [row for subject, rows in before.items() for row in rows if not after.get(subject)],
        "steps": steps,
        "diff": {"before": shown(before), "after": shown(after)},
    }
