# SPDX-License-Identifier: GPL-3.0-or-later
"""The power of machines of a lab: what to do so that they are off, on or reset. Pure.

A host that is switched off for certain is fenced whatever it believes of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import LabError
from ..names import check_name
from .plan import Seen, Step

_OFF = ("off", "crashed")


def check_hosts(hosts: Sequence[str]) -> list[str]:
    """The names of hosts, each once.

    :raises LabError: for what is no name.
    """
    return list(dict.fromkeys(check_name(host, "host") for host in hosts))


def plan_power(lab: str, hosts: Sequence[str], state: str, seen: Mapping[str, Seen]) -> list[Step]:
    """The steps that bring these hosts to ``state``: "off", "on", or "reset", which is something to do in any case.

    :param seen: the machines of the lab by the names of their hosts.
    :raises LabError: for a host that the lab does not have, and for the reset of one that is off.
    """
    steps = []
    for host in hosts:
        if host not in seen:
            known = ", ".join(sorted(seen)) or "none: it is not built"
            raise LabError(f"host {host}", f"lab {lab} has no machine of this name on this hypervisor", f"it has {known}")
        now = seen[host].state
        why = f"it is {now}"
        if state == "off" and now != "off":
            steps.append(Step("stop", host, why))
        elif state == "on":
            # A crashed machine is still there, with nothing that runs in it.
            steps += [Step("stop", host, why)] * (now == "crashed")
            steps += [Step("start", host, why)] * (now in _OFF)
            steps += [Step("resume", host, why)] * (now == "paused")
        elif state == "reset" and now in _OFF:
            raise LabError(f"host {host}", f"is {now} and cannot be reset", "switch it on (state: on)")
        elif state == "reset":
            steps.append(Step("reset", host, "asked for"))
            steps += [Step("resume", host, why)] * (now == "paused")
    return steps
