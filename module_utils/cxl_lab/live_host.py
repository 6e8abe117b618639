# SPDX-License-Identifier: GPL-3.0-or-later
"""A running host whose type-3 devices change: the order of things between QEMU, the guest and what is remembered."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Mapping, Sequence

from . import guest_release, hotplug
from .cxl_list import find_memdev, format_serial, list_memdevs
from .errors import LabError
from .leaks import Leak, Leaks
from .live_devices import DeviceWant, Live, LiveDevice, Monitor, observe
from .progress import progress
from .runner import Runner
from .steps import Step, run_steps
from .waiting import poll, wait_until


class LiveHost:
    """One host.

    :param guest: runs commands on it.
    :param elsewhere: the names of devices that leaked on other hosts, and where.
    :param timeout: seconds to wait for the guest; ``sleep`` between two looks.
    """

    def __init__(
        self,
        name: str,
        monitor: Monitor,
        guest: Runner,
        leaks: Leaks,
        *,
        elsewhere: Mapping[str, str],
        timeout: float,
        sleep: float,
    ) -> None:
        self.name = name
        self._monitor = monitor
        self._guest = guest
        self._leaks = leaks
        self._elsewhere = elsewhere
        self._timeout = timeout
        self._sleep = sleep

    def observe(self) -> Live:
        return observe(self._monitor)

    def plan_attach(self, want: DeviceWant, live: Live, files: Mapping[str, Path]) -> list[hotplug.Command]:
        """The commands; none when the device is there.

        :raises LabError: when it cannot be attached, or must not because it leaked.
        """
        leak = next((leak for leak in self._leaks.load(live.objects) if leak.name == want.name), None)
        if leak:
            step = f"switch {self.name} off and on (cxl_power), or choose another name"
            raise LabError(want.subject, f"leaked: {leak.reason}", step, observed=list(leak.objects))
        if want.name in self._elsewhere:
            where = self._elsewhere[want.name]
            raise LabError(want.subject, f"leaked on {where}", f"switch {where} off and on (cxl_power), or choose another name")
        return hotplug.plan_attach(want, live, files)

    def attach(self, want: DeviceWant, commands: Sequence[hotplug.Command]) -> str:
        """Does the commands and waits until the guest has the device; returns the name of its memdev.

        :raises LabError: when QEMU refuses; then nothing is left of it. When the guest does not take it, the device stays.
        """
        before = self.observe().objects
        try:
            for command in commands:
                self._monitor.execute(command.name, command.arguments)
        except LabError:
            for backend in sorted(self.observe().objects - before):
                with contextlib.suppress(LabError):
                    self._execute(hotplug.drop(backend))
            raise
        device = self.observe().device(want.name)
        if device is None:
            raise LabError(want.subject, "is not there after it was plugged in", "look at QEMU's log")
        progress(f"waiting for {self.name} to see {want.name}")
        return self._wait_memdev(want.subject, device.serial)

    def plan_release(self, device: LiveDevice, force: bool) -> list[Step]:
        """What the guest has to do before the device may go.

        :param force: go on where the guest does not answer or somebody uses the device.
        """
        subject = f"device {device.name} of {self.name}"
        try:
            return guest_release.plan(device.serial, guest_release.observe(self._guest, device.serial), subject)
        except LabError:
            if force:
                return []
            raise

    def detach(self, device: LiveDevice, release: Sequence[Step], force: bool) -> list[str]:
        """Lets the guest go of the device, unplugs it and takes its memory back; returns what happened.

        :raises LabError: when the guest does not let go. Without ``force`` the device is still there then.
        """
        subject = f"device {device.name} of {self.name}"
        problem = self._release(device, release, subject, force)
        objects = tuple(self.observe().backends(device.name))
        # Remembered before, and forgotten after: if this run is killed in between, it has leaked.
        self._remember(Leak(device.name, problem or "it was unplugged and did not go", objects))
        self._execute(hotplug.unplug(device.name))
        progress(f"waiting for {self.name} to let {device.name} go")
        live, gone = poll(self.observe, lambda now: now.device(device.name) is None, timeout=self._timeout, sleep=self._sleep)
        if not gone:
            step = f"look at dmesg of {self.name}; its memory is not given away until {self.name} was off"
            raise LabError(subject, f"did not go within {self._timeout:.0f} s", step, observed=list(objects))
        done = [f"unplug {device.name}"]
        if problem:
            # QEMU would take the objects away by name, and the guest would go on to write there.
            return [*done, f"remember that {device.name} leaked: {problem}"]
        for backend in live.backends(device.name):
            # Refused as long as QEMU has it mapped, which does no harm where the guest let go.
            with contextlib.suppress(LabError):
                self._execute(hotplug.drop(backend))
        # A host that still remembers them only refuses more than it has to, until it was off.
        with contextlib.suppress(LabError):
            guest_release.forget_mappings(self._guest, device.serial)
        self._forget(device.name)
        return done

    def memdevs(self) -> dict[str, str]:
        """The names of the host's memdevs by their serial numbers; none while it does not answer."""
        try:
            return {format_serial(memdev.serial): memdev.name for memdev in list_memdevs(self._guest)}
        except LabError:
            return {}

    def leaked(self) -> list[Leak]:
        return self._leaks.load(self.observe().objects)

    def _release(self, device: LiveDevice, steps: Sequence[Step], subject: str, force: bool) -> str:
        """Runs the steps on the guest; what went wrong, "" if nothing did."""
        try:
            run_steps(
                self._guest, steps, subject, "end what uses it, or set force: true (its memory leaks until the host was off)"
            )
            held = guest_release.observe(self._guest, device.serial)
            if held.users or held.regions:
                in_use = "; ".join([*held.users, *(region.name for region in held.regions)])
                raise LabError(subject, f"{self.name} still has {in_use}", "end what uses it")
        except LabError as error:
            if not force:
                raise
            return error.problem
        return ""

    def _wait_memdev(self, subject: str, serial: int) -> str:
        memdev = wait_until(
            lambda: find_memdev(list_memdevs(self._guest), serial),
            lambda seen: seen is not None and seen.enabled,
            subject,
            f"{self.name} to take the memdev {format_serial(serial)}",
            timeout=self._timeout,
            sleep=self._sleep,
            next_step=f"look at dmesg of {self.name}",
        )
        return memdev.name if memdev else ""

    def _remember(self, leak: Leak) -> None:
        self._leaks.save([*(one for one in self.leaked() if one.name != leak.name), leak])

    def _forget(self, name: str) -> None:
        self._leaks.save([one for one in self.leaked() if one.name != name])

    def _execute(self, command: hotplug.Command) -> None:
        self._monitor.execute(command.name, command.arguments)
