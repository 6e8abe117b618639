# SPDX-License-Identifier: GPL-3.0-or-later
"""The names by which the guests of a lab know each other: /etc/hosts.

A guest gets it as a credential when QEMU starts. One that runs does not hear of a host that joins the lab later, also not at a
reset, because QEMU keeps what it has read: it is told over ssh.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterable, Sequence

from ..errors import LabError
from ..runner import Runner, must
from .guest import GuestRunner
from .plan import Machine

_FILE = "/etc/hosts"
_AT_ONCE = 8


def hosts_file(machines: Iterable[Machine]) -> str:
    """/etc/hosts of every guest: a host by its name at its first lab network, and as NAME.NETWORK at the others."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for machine in machines:
        for index, nic in enumerate(machine.nics):
            lines.append(f"{nic.address.split('/')[0]} {machine.host.name}{f'.{nic.network}' if index else ''}")
    return "".join(f"{line}\n" for line in lines)


def merged(have: str, want: str) -> str:
    """``want``, and behind it the lines of ``have`` that somebody else wrote: those that name none of our hosts."""
    ours = {name for line in want.splitlines() for name in _names(line)}
    others = [line for line in have.splitlines() if line not in want.splitlines() and not ours & set(_names(line))]
    return want + "".join(f"{line}\n" for line in others)


def _names(line: str) -> list[str]:
    return line.partition("#")[0].split()[1:]


class HostNames:
    """What the guests that run know of each other.

    :param runner: runs ssh, on the hypervisor.
    :param ssh_config: as `Store.publish_access` writes it.
    """

    def __init__(self, runner: Runner, ssh_config: Path, machines: Sequence[Machine]) -> None:
        self._runner = runner
        self._ssh_config = ssh_config
        self._want = hosts_file(machines)

    def outdated(self, hosts: Sequence[str]) -> list[str]:
        """Those whose file lacks something. One that does not answer is left out: that is told where it is waited for."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [
                host for host, known in zip(hosts, pool.map(self._read, hosts)) if known and merged(known, self._want) != known
            ]

    def tell(self, hosts: Sequence[str]) -> None:
        """Brings the files of these hosts up to date.

        :raises LabError: for the first one that does not take it.
        """
        for host in hosts:
            guest = GuestRunner(self._runner, self._ssh_config, host)
            must(guest, ["tee", _FILE], f"{_FILE} of {host}", stdin=merged(self._read(host), self._want))

    def _read(self, host: str) -> str:
        try:
            done = GuestRunner(self._runner, self._ssh_config, host).run(["cat", _FILE], timeout=30)
        except LabError:
            return ""
        return done.stdout if done.rc == 0 else ""
