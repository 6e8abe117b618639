# SPDX-License-Identifier: GPL-3.0-or-later
"""One device in a thread of its own: it answers events every millisecond, and takes the device again when it was lost.

A stop leaves region, extents and mappings as they are: the next daemon goes on with them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from ..errors import Code, DatapathError
from .desired import DeviceState
from .host import DcdHost

PERIOD_S = 0.001
RETRY_S = 2.0

log = logging.getLogger(__name__)


class NotReady(DatapathError):
    """The device is wanted and not there yet."""


class Keeper:
    """`attach` finds the device, takes it and makes its region; it raises what keeps it from that."""

    def __init__(self, desired: DeviceState, attach: Callable[[DeviceState], DcdHost]) -> None:
        self.desired = desired
        self.reason: DatapathError | None = None
        self._attach = attach
        self._host: DcdHost | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"dcd {desired.serial:#x}", daemon=True)

    def start(self) -> None:
        """Raises when the device cannot be had now; otherwise its events are answered from here on."""
        with self._lock:
            self._open()
        self._thread.start()

    def start_later(self) -> None:
        """The same, in the background and as often as it takes."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextlib.contextmanager
    def host(self) -> Iterator[DcdHost]:
        """The device, with nobody else at its mailbox. Raises `not_ready` with the reason while it is not there."""
        with self._lock:
            if self._host is None:
                why = f"is not reachable yet ({self.reason})" if self.reason else "is being opened"
                raise NotReady(Code.NOT_READY, f"device {self.desired.serial:#x}", why, "the daemon keeps trying")
            yield self._host

    def _open(self) -> DcdHost:
        host = self._attach(self.desired)
        for name, wanted in self.desired.mappings.items():
            host.adopt_user(name, wanted)
        self._host, self.reason = host, None
        return host

    def _run(self) -> None:
        while not self._stopped.is_set():
            pause = PERIOD_S
            try:
                with self._lock:
                    (self._host or self._open()).service()
            except DatapathError as error:
                if str(error) != str(self.reason):
                    log.error("device %#x: %s; it is tried again", self.desired.serial, error)
                self._host, self.reason, pause = None, error, RETRY_S
            except Exception:
                log.exception("device %#x: fault in its service", self.desired.serial)
                pause = RETRY_S
            self._stopped.wait(pause)
