# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath dcd ...`: dynamic capacity of CXL devices."""

from __future__ import annotations

import argparse
from typing import Any

from .cli_values import Verb, number, size


def add(nouns: Any, verb: Verb) -> None:
    dcd = nouns.add_parser("dcd", help="dynamic capacity of CXL devices").add_subparsers(dest="verb", required=True)

    def device(name: str, method: str, help: str) -> argparse.ArgumentParser:
        made = verb(dcd, name, method, help)
        made.add_argument("serial", type=number, help="serial number of the device")
        return made

    verb(dcd, "regions", "dcd.region.list", "devices that this host has a region of")
    verb(dcd, "extents", "dcd.extent.list", "what they hold, and who uses it")
    verb(dcd, "events", "dcd.event.list", "what happened last")
    verb(dcd, "mappings", "dcd.mapping.list", "who uses what, and where it is mapped")
    create = device("create", "dcd.region.create", "take a device over and accept what it offers")
    create.add_argument(
        "--window", type=int, default=None, help="fixed memory window by number (default: the only one of its bridge)"
    )
    create.add_argument("--limit", type=size, default=None, help="bytes to hold at most")
    create.add_argument("--remember", action="store_true", help="give back later what is asked for while it is used")
    create.add_argument("--direct", type=number, default=None, help="map through the persistent memdev with this serial number")
    device("destroy", "dcd.region.destroy", "give extents and device back")
    made = device("map", "dcd.mapping.create", "note a user of a range; says where to map it")
    made.add_argument("name")
    made.add_argument("dpa", type=size, help="first byte, in addresses of the device")
    made.add_argument("size", type=size)
    device("unmap", "dcd.mapping.remove", "the user lets go").add_argument("name")
