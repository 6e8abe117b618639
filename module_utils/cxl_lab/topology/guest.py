# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands on a host of a lab, for modules that run on the hypervisor and have to hear both sides."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Sequence

from ..errors import LabError
from ..names import check_name
from ..runner import Result, Runner

#: What ssh ends with when it did not get to run the command.
_NO_CONNECTION = 255


class GuestRunner:
    """Runs commands on a host by ssh, with the key and the host key of its lab.

    :param runner: runs ssh, on the hypervisor.
    :param ssh_config: as `Store.publish_access` writes it.
    """

    def __init__(self, runner: Runner, ssh_config: Path, host: str) -> None:
        self._runner = runner
        self._ssh_config = ssh_config
        self.host = check_name(host, "host")

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 120) -> Result:
        """
        :raises LabError: when the host cannot be reached.
        """
        ssh = ["ssh", "-F", str(self._ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", self.host, "--"]
        # ssh hands one line to a shell over there: each word is quoted for it.
        done = self._runner.run([*ssh, shlex.join(argv)], stdin=stdin, timeout=timeout)
        if done.rc == _NO_CONNECTION:
            problem = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            raise LabError(f"host {self.host}", f"cannot be reached by ssh: {problem}", "is it up? see cxl_topology_info")
        return done
