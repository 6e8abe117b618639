# SPDX-License-Identifier: GPL-3.0-or-later
"""`dcd.*`: regions, extents, events and mappings of dynamic-capacity devices."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ..dcd.desired import DeviceState
from ..errors import from_errno
from ..names import check_name
from ..schema import Field, boolean, integer, optional
from ..service import Datapath
from .base import Handed, Method, Params
from .in_use import refuse_used_mapping

SERIAL = Field(integer(0, (1 << 64) - 1))
NAME = Field(check_name)
_BYTES = integer(0, 1 << 62)


async def create_region(datapath: Datapath, params: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.create, DeviceState(**params))


async def destroy_region(datapath: Datapath, params: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.destroy, params["serial"])


async def list_regions(datapath: Datapath, _: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.regions)


async def list_extents(datapath: Datapath, _: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.extents)


async def list_events(datapath: Datapath, _: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.events)


async def create_mapping(datapath: Datapath, params: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.map, params["serial"], params["name"], (params["dpa"], params["size"]))


async def list_mappings(datapath: Datapath, _: Params) -> Any:
    return await asyncio.to_thread(datapath.dcd.mappings)


async def remove_mapping(datapath: Datapath, params: Params) -> Any:
    refuse_used_mapping(datapath, params["serial"], params["name"])
    return await asyncio.to_thread(datapath.dcd.unmap, params["serial"], params["name"])


async def open_mapping(datapath: Datapath, params: Params) -> Handed:
    """The file of a mapping, open, to be mapped at `offset`. It reaches more than the range: for trusted programs only."""
    row = await asyncio.to_thread(datapath.dcd.mapping, params["serial"], params["name"])
    try:
        return Handed(row, os.open(row["path"], os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise from_errno(error.errno or 0, row["path"], "open it", "run the daemon as root") from None


_REGION = {
    "serial": SERIAL,
    "window": Field(optional(integer(0, 255)), None),
    "limit": Field(optional(_BYTES), None),
    "remember": Field(boolean, False),
    "direct": Field(optional(integer(0, (1 << 64) - 1)), None),
}
_MAPPING = {"serial": SERIAL, "name": NAME, "dpa": Field(_BYTES), "size": Field(integer(1, 1 << 62))}

METHODS = {
    "dcd.region.create": Method(create_region, _REGION, mutates=True),
    "dcd.region.destroy": Method(destroy_region, {"serial": SERIAL}, mutates=True),
    "dcd.region.list": Method(list_regions),
    "dcd.extent.list": Method(list_extents),
    "dcd.event.list": Method(list_events),
    "dcd.mapping.create": Method(create_mapping, _MAPPING, mutates=True),
    "dcd.mapping.list": Method(list_mappings),
    "dcd.mapping.open": Method(open_mapping, {"serial": SERIAL, "name": NAME}),
    "dcd.mapping.remove": Method(remove_mapping, {"serial": SERIAL, "name": NAME}, mutates=True),
}
