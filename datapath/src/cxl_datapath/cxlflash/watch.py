# SPDX-License-Identifier: GPL-3.0-or-later
"""Notices that applications are gone: the last copy of their end of a bell is closed, or their process has ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Callable

from .process import Process, open_pidfd
from .refusal import invalid


class Watch:
    """`on_bell(fd)` and `on_exit(process)` are called once each, from the event loop."""

    def __init__(self, on_bell: Callable[[int], None], on_exit: Callable[[Process], None]) -> None:
        self._on_bell = on_bell
        self._on_exit = on_exit
        # Only hang-ups: the bytes of a bell are the engine's, and must not wake the daemon.
        self._hangups = select.epoll()
        self._processes: dict[tuple[int, int], tuple[int, int]] = {}  # (pid, start) -> (pidfd, contexts)
        asyncio.get_running_loop().add_reader(self._hangups.fileno(), self._read_hangups)

    def bell(self, fd: int) -> None:
        self._hangups.register(fd, select.EPOLLHUP | select.EPOLLRDHUP)

    def forget_bell(self, fd: int) -> None:
        with contextlib.suppress(OSError):  # it rang already
            self._hangups.unregister(fd)

    def process(self, process: Process) -> None:
        """One more context of it. Raises `Refusal` when it is gone."""
        key = (process.pid, process.start)
        if key in self._processes:
            fd, count = self._processes[key]
            if _ended(fd):  # told already: nobody would hear of what it gets now
                raise invalid(f"process {process.pid} is gone")
            self._processes[key] = (fd, count + 1)
            return
        fd = open_pidfd(process)
        self._processes[key] = (fd, 1)
        asyncio.get_running_loop().add_reader(fd, self._exited, process)

    def forget_process(self, process: Process) -> None:
        """One context less."""
        key = (process.pid, process.start)
        fd, count = self._processes.pop(key)
        if count > 1:
            self._processes[key] = (fd, count - 1)
            return
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._hangups.fileno())
        self._hangups.close()
        for fd, _ in self._processes.values():
            loop.remove_reader(fd)
            os.close(fd)
        self._processes.clear()

    def _read_hangups(self) -> None:
        for fd, _ in self._hangups.poll(0):
            self._hangups.unregister(fd)
            self._on_bell(fd)

    def _exited(self, process: Process) -> None:
        asyncio.get_running_loop().remove_reader(self._processes[(process.pid, process.start)][0])
        self._on_exit(process)


def _ended(pidfd: int) -> bool:
    poll = select.poll()  # unlike select() it knows descriptors above 1023
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
