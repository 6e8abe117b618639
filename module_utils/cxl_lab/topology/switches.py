# SPDX-License-Identifier: GPL-3.0-or-later
"""The switches of lab networks: a vde_switch for each, which knows nothing but the sockets of the lab's hosts.

It is no device of this machine: no interface, no address, no packet leaves it. It runs as QEMU's user, so that only QEMU and root
can plug something in.
"""

from __future__ import annotations

from collections import Counter
from typing import Container, Iterable

from ..detached import Daemon
from .plan import LabPaths, Machine
from .store import Owner


def switch_daemon(paths: LabPaths, network: str, ports: int, owner: Owner) -> Daemon:
    """The switch of one network with this many ports."""
    folder = paths.switch(network)
    user = ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups"]
    command = [*user, "vde_switch", "-s", str(folder), "-m", "600", "-n", str(ports)]
    return Daemon(f"{paths.lab}.{network}.switch", command, folder / "ctl", paths.run, reads_input=True)


def start_switches(paths: LabPaths, machines: Iterable[Machine], owner: Owner) -> None:
    """Starts the switches that do not run, and ends those that no machine is plugged into any more.

    A guest that was plugged into one that ended is plugged in again when it starts.

    :raises LabError: when one does not come up.
    """
    counts = Counter(nic.network for machine in machines for nic in machine.nics if nic.kind == "switch")
    _stop(paths, keep=counts)
    for network, count in counts.items():
        # Room for hosts that join later, without a new switch that the others are not plugged into.
        daemon = switch_daemon(paths, network, 2 * count + 32, owner)
        if not daemon.own_pid():
            daemon.start()


def stop_switches(paths: LabPaths) -> None:
    """Ends every switch of the lab, whatever its topology says by now."""
    _stop(paths, keep=())


def _stop(paths: LabPaths, keep: Container[str]) -> None:
    for file in sorted(paths.run.glob(f"{paths.lab}.*.switch.pid")):
        network = file.name.split(".")[1]
        if network not in keep:
            switch_daemon(paths, network, 0, Owner(0, 0)).stop()
