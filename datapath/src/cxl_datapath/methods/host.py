# SPDX-License-Identifier: GPL-3.0-or-later
"""`cbd.host.*`."""

from __future__ import annotations

from ..service import Datapath
from ..views import Row, hosts_view
from .base import TRANSPORT, Method, Params


async def list_hosts(datapath: Datapath, params: Params) -> list[Row]:
    return hosts_view(datapath.session(params["transport"]))


METHODS = {"cbd.host.list": Method(list_hosts, {"transport": TRANSPORT})}
