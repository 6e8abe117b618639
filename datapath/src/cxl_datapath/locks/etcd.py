# SPDX-License-Identifier: GPL-3.0-or-later
"""A lock between hosts in etcd: a lease of ours holds a key of etcd's lock service (`/v3/lock`), and goes when we do."""

from __future__ import annotations

import base64
import binascii
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import Code, DatapathError
from .gateway import Gateway

_CALL_S = 5.0  # for what etcd answers at once
TTL_S = 15.0
_TTL_MIN_S = 2  # etcd knows whole seconds, and gives no less

log = logging.getLogger(__name__)


def lease_id(value: object) -> str | None:
    """A lease's id as etcd writes it: an int64 in a string; None for anything else. Pure."""
    text = value if isinstance(value, str) else ""
    digits = text.removeprefix("-")
    return text if digits.isascii() and digits.isdecimal() and len(digits) <= 19 and int(digits) else None


def ttl_of(value: object) -> int:
    """Seconds that a lease has left, as etcd writes them; 0 for anything else. Pure."""
    sane = isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10
    return int(str(value)) if sane else 0


class _Lease:
    """A lease that a thread keeps alive. `valid` is judged with our clock, and never longer than etcd promised."""

    def __init__(self, gateway: Gateway, ttl_s: int, clock: Callable[[], float]) -> None:
        self._gateway = gateway
        self._ttl_s = ttl_s
        self._clock = clock
        sent = clock()
        answer = gateway.call("/v3/lease/grant", {"TTL": str(ttl_s)}, _CALL_S)
        granted = lease_id(answer.get("ID"))
        if granted is None or not ttl_of(answer.get("TTL")):
            raise gateway.nonsense("/v3/lease/grant", answer)
        self.id = granted
        self._valid_until = sent + min(ttl_s, ttl_of(answer.get("TTL")))
        self._over = threading.Event()
        threading.Thread(target=self._keep, name="etcd-lease", daemon=True).start()

    def valid(self) -> bool:
        return self._clock() < self._valid_until

    def end(self) -> None:
        """Gives the lease and every key on it back, as far as etcd can be reached: it ends by itself otherwise."""
        self._over.set()
        try:
            self._gateway.call("/v3/lease/revoke", {"ID": self.id}, _CALL_S)
        except DatapathError as error:
            if self.valid():
                log.warning("a lock is held for %d s more: %s", self._ttl_s, error)

    def _keep(self) -> None:
        while not self._over.wait(self._ttl_s / 3):
            sent = self._clock()
            try:
                answer = self._gateway.call("/v3/lease/keepalive", {"ID": self.id}, self._ttl_s / 3)
            except DatapathError as error:
                log.warning("cannot renew the lease of a lock: %s", error)
                continue
            result = answer.get("result")
            left = ttl_of(result.get("TTL")) if isinstance(result, dict) else 0
            if not left:  # it ended, or was revoked: etcd gives no such lease back
                self._valid_until = sent
                return
            self._valid_until = sent + min(self._ttl_s, left)


class EtcdLock:
    """A `HostLock` named `name` in the etcd at `url`. `ttl_s`: how long it stays when its holder dies, and how long a holder that
    cannot reach etcd may believe in it. Two threads of one process take turns. Raises `invalid` for a URL that cannot be one.
    """

    def __init__(self, url: str, name: str, ttl_s: float = TTL_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateway = Gateway(url)
        self._name = name
        self._ttl_s = max(_TTL_MIN_S, math.ceil(ttl_s))
        self._clock = clock
        self._mutex = threading.Lock()
        self._lease: _Lease | None = None

    def acquire(self, patience_s: float) -> None:
        """Raises `busy` when it was not to be had for so long; `failed`, `timeout`, `corrupt` when etcd does not do its part."""
        deadline = self._clock() + patience_s
        if not self._mutex.acquire(timeout=max(0.0, patience_s)):
            raise self._busy("is held by another operation of this host", "try again")
        try:
            self._lease = _Lease(self._gateway, self._ttl_s, self._clock)
            self._lock(self._lease, deadline)
            self.check()
        except BaseException:
            self._end()
            raise

    def check(self) -> None:
        if self._lease is None or not self._lease.valid():
            why = "is not ours any more: its lease was not renewed in time"
            raise self._busy(why, "look at the daemon's log and at etcd, then repeat the operation")

    def release(self) -> None:
        if self._lease is not None:
            self._end()

    def _lock(self, lease: _Lease, deadline: float) -> None:
        path, name = "/v3/lock/lock", self._name.encode()
        try:
            answer = self._gateway.call(path, _encoded(name, lease), deadline - self._clock())
        except DatapathError as error:
            if error.code == Code.TIMEOUT:
                hint = "wait for its operation to end, and try again"
                raise self._busy("was not given in time: another host holds it, or etcd does not answer", hint) from None
            raise
        if not _decoded(answer.get("key")).startswith(name + b"/"):
            raise self._gateway.nonsense(path, answer)

    def _end(self) -> None:
        lease, self._lease = self._lease, None
        try:
            if lease is not None:
                lease.end()
        finally:
            self._mutex.release()

    def _busy(self, why: str, hint: str) -> DatapathError:
        return DatapathError(Code.BUSY, self._gateway.what, f"the lock {self._name} {why}", hint)


def _encoded(name: bytes, lease: _Lease) -> dict[str, Any]:
    return {"name": base64.b64encode(name).decode(), "lease": lease.id}


def _decoded(key: object) -> bytes:
    try:
        return base64.b64decode(key, validate=True) if isinstance(key, str) else b""
    except (binascii.Error, ValueError):
        return b""
