# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes a ublk device that the kernel kept while its worker was away, when there may be no backend any more.

The device can only be taken over by a server whose channels answer. So this process is the backend, too: one that fails every
request, and has no medium that it could touch. Whoever still waits for the device gets I/O errors, which is the truth.
"""

from __future__ import annotations

import os

from ..core import Backend, BackendConf, IdleConf
from ..frontends.base import Target
from ..frontends.ublk import UblkFrontEnd


def remove_kept(target: Target) -> None:
    """Raises `busy` while the device is in use, and leaves it to the kernel again. The channels must be nobody else's."""
    nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)  # reads fail as well as writes
    engine = Backend(target.transport.mapping.mem, BackendConf(nothing, 0, 1, target.block_size, target.capacity, IdleConf(0, 0)))
    try:
        for channel, epoch in zip(target.channels, target.epochs, strict=True):
            engine.add(target.transport.channel_conf(channel, epoch))
        frontend = UblkFrontEnd(target)
        frontend.start()
        frontend.stop()
    finally:
        engine.close()
        os.close(nothing)
