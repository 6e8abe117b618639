# SPDX-License-Identifier: GPL-3.0-or-later
"""Says at the very end of a playbook why it failed: a reader looks there first, and finds the recap."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_errors
type: aggregate
short_description: The reason of a failure below the recap
description:
  - Shows the message of the last failed task of each host that failed, after the recap; of a loop, that of each item that failed.
  - Where hosts did not answer it says whose inventory that was.
"""

import os

from ansible import context
from ansible.plugins.callback import CallbackBase


def reason(result):
    """The message of a failed task. Of a loop the items know it; it itself only says that it is through."""
    items = [item for item in result.get("results") or () if item.get("failed") or item.get("unreachable")]
    told = [f"{item.get('_ansible_item_label', item.get('item'))}: {item.get('msg', '')}" for item in items]
    return "\n    ".join(told) or result.get("msg", "")


class CallbackModule(CallbackBase):
    """Remembers the last failure of each host; one that was rescued or ignored is not counted by the recap, nor shown."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "lab_errors"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._last: dict[str, str] = {}

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if not ignore_errors:
            self._last[result.host.get_name()] = f"{result.task.get_name()}\n    {reason(result.result)}"

    def v2_runner_on_unreachable(self, result):
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats):
        for host, told in self._last.items():
            if stats.failures.get(host) or stats.dark.get(host):
                self._display.display(f"failed on {host}: {told}", color="red")
        if stats.dark:
            whose = ", ".join(os.path.relpath(path) for path in context.CLIARGS.get("inventory") or ())
            hint = (
                f"no answer from {', '.join(sorted(stats.dark))}: the lab of {whose} is not up (make lab), or was -i forgotten?"
            )
            self._display.display(hint, color="red")
