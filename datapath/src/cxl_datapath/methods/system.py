# SPDX-License-Identifier: GPL-3.0-or-later
"""`hello` and `status`."""

from __future__ import annotations

import os

from .. import __version__
from ..service import Datapath
from ..views import Row
from .base import Method, Params
from .kept import forgotten_devices, status_row

PROTOCOL = 1


async def hello(datapath: Datapath, _: Params) -> Row:
    """Answered at once, whatever else the daemon does; `waits_for` tells what that is while it waits."""
    name = datapath.settings.host_name
    return {"protocol": PROTOCOL, "version": __version__, "host": name, "pid": os.getpid(), "waits_for": datapath.waits.now()}


async def status(datapath: Datapath, params: Params) -> Row:
    folders = {"runtime": str(datapath.settings.runtime), "state": str(datapath.settings.state)}
    devices = await forgotten_devices(datapath) if datapath.sessions else {}
    return (
        await hello(datapath, params)
        | folders
        | {"transports": [status_row(session, devices) for session in datapath.sessions.values()]}
        | {"pools": [await pool.view() for pool in datapath.pools.values()]}
    )


METHODS = {"hello": Method(hello), "status": Method(status)}
