# SPDX-License-Identifier: GPL-3.0-or-later
"""Says at the very end of a playbook why it failed: a reader looks there first, and finds the recap."""

from __future__ import annotations

DOCUMENTATION = r"""
name: lab_errors
type: aggregate
short_description: The reason of a failure below the recap
description:
  - Shows the message of the last failed task of each host that failed, after the recap.
"""

from ansible.plugins.callback import CallbackBase


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
            self._last[result.host.get_name()] = f"{result.task.get_name()}\n    {result.result.get('msg', '')}"

    def v2_runner_on_unreachable(self, result):
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats):
        for host, reason in self._last.items():
            if stats.failures.get(host) or stats.dark.get(host):
                self._display.display(f"failed on {host}: {reason}", color="red")
