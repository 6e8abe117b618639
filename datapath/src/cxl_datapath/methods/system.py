# SPDX-License-Identifier: GPL-3.0-or-later
"""`hello` and `status`."""

from __future__ import annotations

import os

from .. import __version__
from ..service import Datapath
from ..views import Row, session_view
from .base import Method, Params

PROTOCOL = 1


async def hello(datapath: Datapath, _: Params) -> Row:
    """Answered at once, whatever else the daemon does; `waits_for` tells what that is while it waits."""
    name = datapath.settings.host_name
    return {"protocol": PROTOCOL, "version": __version__, "host": name, "pid": os.getpid(), "waits_for": datapath.waits.now()}


async def status(datapath: Datapath, params: Params) -> Row:
    folders = {"runtime": str(datapath.settings.runtime), "state": str(datapath.settings.state)}
    return (
        await hello(datapath, params)
        | folders
        | {"transports": [session_view(session) for session in datapath.sessions.values()]}
        | {"pools": [await pool.view() for pool in datapath.pools.values()]}
    )


METHODS = {"hello": Method(hello), "status": Method(status)}
