# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the modules meet Ansible: one way in, one way out.

A module gives ``run_module`` a function that observes, plans and (unless ``check``) applies; every LabError
becomes one message of the form "<object>: <what>; <what to do next>" with the facts beside it.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

from ansible.module_utils.basic import AnsibleModule

from .cxl_lab.errors import LabError

#: The waiting options that every module that waits has.
WAIT_OPTIONS = {
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "float", "default": 120.0},
    "wait_sleep": {"type": "float", "default": 0.2},
}


#: Longer than anybody waits.
_MAX_SECONDS = 10**9


def _check_waiting(params: Mapping[str, Any]) -> None:
    """A time that is no number ("nan") would never be over.

    :raises LabError: for what nobody can wait.
    """
    for key in ("wait_timeout", "wait_sleep"):
        value = params.get(key)
        if value is not None and not 0 <= value <= _MAX_SECONDS:
            raise LabError(key, f"{value} is no time to wait", f"give seconds, 0 to {_MAX_SECONDS}")


def run_module(work: Callable[[AnsibleModule], dict[str, Any]], **spec: Any) -> None:
    """Runs ``work(module)`` and ends the module with its result dictionary, or with the LabError that it raised.

    :param work: returns at least ``changed``; a ``diff`` of ``{"before": ..., "after": ...}`` is passed on.
    :param spec: what AnsibleModule takes.
    """
    module = AnsibleModule(**spec)
    try:
        _check_waiting(module.params)
        result = work(module)
    except LabError as error:
        module.fail_json(msg=str(error), **error.details())
    module.exit_json(**result)
