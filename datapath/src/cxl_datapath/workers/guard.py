# SPDX-License-Identifier: GPL-3.0-or-later
"""When a worker has to end by itself: its host is dead for the others, or will be soon."""

from __future__ import annotations

from ..cbd.fencing import is_fenced
from ..cbd.liveness import Liveness
from ..errors import Code, DatapathError
from .attach import Attached


class Guard:
    """The lease of this host, as one of its workers sees it."""

    def __init__(self, transport: Attached) -> None:
        self._host_id, self._host_epoch = transport.ref.host_id, transport.ref.host_epoch
        self._registry = transport.registry
        self._liveness = Liveness(transport.info.lease_s)

    def check_fence(self) -> None:
        """Raises `busy` once another host declared this incarnation dead."""
        if is_fenced(self._registry, self._host_id, self._host_epoch):
            name = self._registry.host_name(self._host_id)
            what = "was declared dead by another host, which may have taken over what it had"
            raise DatapathError(Code.BUSY, f"host {name}", what, "the daemon registers again by itself")

    def check_lease(self) -> None:
        """Raises `not_ready` when the daemon has not beaten for a lease: the others may act on that now."""
        self.check_fence()
        self._liveness.observe(self._host_id, self._registry.heartbeat(self._host_id), self._host_epoch)
        if self._liveness.alive(self._host_id) is False:
            what = f"has not renewed its lease for {self._registry.info.lease_s:g} s"
            raise DatapathError(Code.NOT_READY, "cxl-datapathd", what, "is it stopped, or the machine overloaded?")
