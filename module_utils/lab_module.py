# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the modules meet Ansible: one way in, one way out.

A module gives ``run_module`` a function that observes, plans and (unless ``check``) applies; every LabError
becomes one message of the form "<object>: <what>; <what to do next>" with the facts beside it.
"""

from __future__ import annotations

from typing import Any, Callable

from ansible.module_utils.basic import AnsibleModule

from .cxl_lab.errors import LabError

#: The waiting options that every module that waits has.
WAIT_OPTIONS = {
    "wait": {"type": "bool", "default": True},
    "wait_timeout": {"type": "float", "default": 120.0},
    "wait_sleep": {"type": "float", "default": 0.2},
}


def run_module(work: Callable[[AnsibleModule], dict[str, Any]], **spec: Any) -> None:
    """Runs ``work(module)`` and ends the module with its result dictionary, or with the LabError that it raised.

    :param work: returns at least ``changed``; a ``diff`` of ``{"before": ..., "after": ...}`` is passed on.
    :param spec: what AnsibleModule takes.
    """
    module = AnsibleModule(**spec)
    try:
        result = work(module)
    except LabError as error:
        module.fail_json(msg=str(error), **error.details())
    module.exit_json(**result)
