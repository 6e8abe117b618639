# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts as real processes that only register, beat, and allocate under the claim; run as a program it is one of them.

It reads commands from its standard input, a line each, and answers each with one line of JSON: `register`, `where` (its entry,
after a beat), `allocate N` (ids of N backends, one claim each), `hold` (takes the claim and keeps it), `die N` (kills itself at
its N-th access to the memory from now on, while it allocates).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from cxl_datapath.cbd.claim import Bakery
from cxl_datapath.cbd.fencing import fence
from cxl_datapath.cbd.hosting import register
from cxl_datapath.cbd.layout import BackendEntry, State
from cxl_datapath.cbd.liveness import Liveness, period_s
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import DatapathError
from cxl_datapath.mapping import Bytes, Mapping
from cxl_datapath.memory import resolve

PATIENCE_S = 60.0
SETTLE_S = 0.1


class Claimant:
    """One such process."""

    def __init__(self, memory: Path, name: str) -> None:
        command = [sys.executable, "-P", __file__, str(memory), name]
        self.name = name
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended with {self.process.wait()}"
        return json.loads(line)

    def ask(self, command: str) -> Any:
        self.tell(command)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> None:
    with Mapping(resolve(sys.argv[1])) as mapping:
        host = _Host(_Deadly(mapping), sys.argv[2])
        for line in sys.stdin:
            command, *numbers = line.split()
            print(json.dumps(getattr(host, command)(*map(int, numbers))), flush=True)


class _Host:
    def __init__(self, memory: _Deadly, name: str) -> None:
        self._memory = memory
        self._name = name
        self._info = attach(memory, name)
        self._registry = Registry(memory, self._info)
        self._beats = threading.Lock()

    def register(self) -> int:
        self._liveness = Liveness(self._info.lease_s)
        self._registration = register(self._registry, self._name, bytes(16), settle_s=SETTLE_S)
        me = self._registration
        self._bakery = Bakery(self._registry, me.id, me.epoch, self._liveness.alive, partial(fence, self._registry))
        threading.Thread(target=self._beat, daemon=True).start()
        return me.id

    def where(self) -> int:
        """A host that lost its entry to one that was quicker registers again, as a daemon does."""
        try:
            with self._beats:
                self._registration.beat()
        except DatapathError:
            return self.register()
        return self._registration.id

    def allocate(self, count: int) -> list[int]:
        found = []
        for number in range(count):
            self._bakery.acquire(PATIENCE_S)
            index = self._registry.backends.allocate()
            me, size = self._registration, {"logical_block_size": 512, "capacity": 512, "physical_block_size": 512}
            owner = {"host_id": me.id, "host_epoch": me.epoch, "path": f"/{self._name}/{number}"}
            entry = BackendEntry(State.RUNNING, index, epoch=1, flags=0, discard_granularity=0, life=1, **size, **owner)
            self._bakery.check()
            self._registry.backends.write(entry)
            self._bakery.release()
            found.append(index)
        return found

    def hold(self) -> bool:
        self._bakery.acquire(PATIENCE_S)
        return True

    def die(self, steps: int) -> None:
        self._memory.steps = steps
        while True:
            self.allocate(1)

    def _beat(self) -> None:
        registration = self._registration
        while True:
            try:
                with self._beats:
                    registration.beat()
            except DatapathError:
                return
            for host in range(self._registry.hosts.count):
                if (epoch := self._registry.incarnation(host)) is not None:
                    self._liveness.observe(host, self._registry.heartbeat(host), epoch)
            threading.Event().wait(period_s(self._info.lease_s))


class _Deadly:
    """A memory that kills the process at an access, with half of a store done; `steps`: how many are left, if not all."""

    def __init__(self, memory: Bytes) -> None:
        self._memory = memory
        self.size = memory.size
        self.steps: int | None = None

    def _last(self) -> bool:
        if self.steps is not None:
            self.steps -= 1
        return self.steps is not None and self.steps <= 0

    def read(self, offset: int, length: int) -> bytes:
        if self._last():
            os.kill(os.getpid(), signal.SIGKILL)
        return self._memory.read(offset, length)

    def write(self, offset: int, data: bytes) -> None:
        if self._last():
            self._memory.write(offset, data[:8])
            os.kill(os.getpid(), signal.SIGKILL)
        self._memory.write(offset, data)


if __name__ == "__main__":
    main()
