# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out what the plan says: the only place where a lab comes up or goes down."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ..errors import LabError
from ..ports import free_port, port_problem
from ..progress import progress
from .domain_xml import domain_xml
from .libvirt_host import LibvirtHost, tail
from .login import WrongHostKey, try_login
from .plan import Machine, Seen, Step, domain_name
from .records import Memory
from .store import Store
from .switches import start_switches, stop_switches

#: A port that was free a moment ago can be taken before QEMU binds it.
_PORT_TRIES = 4
_GIVEN_UP = ("Kernel panic - not syncing", "You are in emergency mode", "ALERT!", "Boot failed")


class Lab:
    """One lab on one hypervisor."""

    def __init__(self, libvirt_host: LibvirtHost, store: Store) -> None:
        self._libvirt = libvirt_host
        self._store = store

    def carry_out(self, steps: list[Step], machines: list[Machine], seen: dict[str, Seen]) -> dict[str, int]:
        """Does the steps; returns the ssh port of each host that runs afterwards."""
        ports = {name: known.ssh_port for name, known in seen.items()}
        by_name = {machine.host.name: machine for machine in machines}
        lab = self._store.paths.lab
        for step in steps:
            if step.action in ("remove", "replace"):
                self._libvirt.remove(domain_name(lab, step.host))
                ports.pop(step.host, None)
            if step.action == "remove":
                self._store.drop_host(step.host)
        self._store.prepare_lab(machines)
        start_switches(self._store.paths, machines, self._store.emulator)
        for step in steps:
            if step.action in ("create", "replace", "start"):
                progress(f"starting {step.host}")
                ports[step.host] = self._start(
                    by_name[step.host], machines, ports.get(step.host, 0), fresh=step.action != "start"
                )
        return ports

    def _start(self, machine: Machine, machines: list[Machine], old_port: int, fresh: bool) -> int:
        name = domain_name(machine.lab, machine.host.name)
        if fresh:
            self._store.drop_disk(machine.host.name)
        self._store.prepare_host(machine, machines)
        if not fresh and old_port:
            self._libvirt.resume(name)
            if self._libvirt.is_active(name):
                return old_port
        models = self._libvirt.confinement_models()
        for attempt in range(_PORT_TRIES):
            port = machine.host.ssh_port or (old_port if attempt == 0 and old_port else free_port())
            if machine.host.ssh_port:
                check_port(port, machine)
            try:
                self._libvirt.start(domain_xml(machine, self._store.paths, port, models))
                return port
            except LabError as error:
                if "forwarding" not in error.problem or attempt == _PORT_TRIES - 1 or machine.host.ssh_port:
                    raise
        raise AssertionError("unreachable")

    def wait_ready(self, ports: dict[str, int], timeout: float, sleep: float) -> dict[str, float]:
        """Waits for the login of every host at once; returns the seconds that each took.

        :raises LabError: for the first host that died or did not let us in, with QEMU's and the guest's last lines.
        """
        over = threading.Event()
        with ThreadPoolExecutor(max_workers=max(1, len(ports))) as pool:
            waits = {name: pool.submit(self._wait_one, name, port, timeout, sleep, over) for name, port in ports.items()}
            try:
                for wait in as_completed(waits.values()):
                    wait.result()
            finally:
                over.set()
        return {name: wait.result() for name, wait in waits.items()}

    def _wait_one(self, host: str, port: int, timeout: float, sleep: float, over: threading.Event) -> float:
        paths, begin = self._store.paths, time.monotonic()
        domain, reason = domain_name(paths.lab, host), "no answer yet"
        while True:
            if not self._libvirt.is_active(domain):
                raise self._boot_error(host, "the virtual machine died")
            try:
                reason = try_login(port, paths.login_key, self._store.host_public_key(host))
            except WrongHostKey as wrong:
                raise self._boot_error(host, f"127.0.0.1:{port} shows a {wrong} host key that is not the lab's") from wrong
            waited = time.monotonic() - begin
            if not reason:
                return round(waited, 1)
            progress(f"waiting for {host} to boot, {waited:.0f} s")
            given_up = [line for line in self._serial(host) if any(mark in line for mark in _GIVEN_UP)]
            if given_up or waited > timeout:
                raise self._boot_error(host, given_up[-1] if given_up else f"no login within {timeout:.0f} s ({reason})")
            if over.wait(sleep):
                return waited

    def _serial(self, host: str) -> list[str]:
        return tail(self._store.paths.host(host) / "serial.log", 12)

    def _boot_error(self, host: str, problem: str) -> LabError:
        observed: dict[str, Any] = {
            "qemu": LibvirtHost.emulator_log(domain_name(self._store.paths.lab, host)).splitlines(),
            "serial": self._serial(host),
        }
        words = "\n".join(f"    {source}: {line}" for source, lines in observed.items() for line in lines[-6:])
        log = self._store.paths.host(host) / "serial.log"
        return LabError(f"host {host}", problem, f"look at {log}\n{words}", observed=observed)

    def remove(self, hosts: list[str]) -> list[str]:
        """Takes the whole lab down; returns the files that were removed."""
        for host in hosts:
            progress(f"removing {host}")
            self._libvirt.remove(domain_name(self._store.paths.lab, host))
        stop_switches(self._store.paths)
        return self._store.drop_lab()


def check_port(port: int, machine: Machine) -> None:
    """Says it before QEMU does, and better."""
    problem = port_problem(port)
    if problem:
        raise LabError(
            f"host {machine.host.name}",
            f"ssh_port {port} cannot be used: {problem}",
            "choose another ssh_port in cxl_topology.hosts, or leave it out",
        )


def as_result(machines: list[Machine], seen: dict[str, Seen]) -> list[dict[str, Any]]:
    """The hosts as the module returns them: what is there, not what was asked for."""
    return [
        {
            "name": machine.host.name,
            "domain": machine.domain,
            "state": seen[machine.host.name].state if machine.host.name in seen else "absent",
            "ssh_port": seen[machine.host.name].ssh_port if machine.host.name in seen else 0,
            "address": machine.address,
            "addresses": {nic.network: nic.address for nic in machine.nics},
            "memories": [_memory(machine, memory) for memory in machine.memories],
        }
        for machine in machines
    ]


def _memory(machine: Machine, memory: Memory) -> dict[str, Any]:
    """A device as a host sees it; ``head`` is None where it has one head only."""
    return {
        "name": memory.name,
        "serial": f"{memory.serial:#x}",
        "size": memory.size,
        "volatile": memory.volatile,
        "dynamic": memory.dynamic,
        "dc_regions": memory.dc_regions,
        "heads": memory.heads,
        "head": memory.head_of(machine.host.name),
        "hosts": list(memory.hosts),
    }
