# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath lun ...`: LUNs for programs of this host."""

from __future__ import annotations

from typing import Any

from .cli_values import Verb, size
from .cxlflash.desired import CLIENT_CONTEXTS_DEFAULT, MODES


def add(nouns: Any, verb: Verb) -> None:
    lun = nouns.add_parser("lun", help="LUNs for programs of this host").add_subparsers(dest="verb", required=True)
    verb(lun, "list", "lun.list", "all of this host")
    create = verb(lun, "create", "lun.create", "make a block device or file a LUN")
    create.add_argument("path", help="a block device, a file, or kmem_blk:POOL")
    create.add_argument("name")
    create.add_argument("--wwid", default=None, help="32 hexadecimal digits (default: the device's, or made of the path)")
    create.add_argument("--mode", choices=MODES, default="superpipe", help="legacy: leave the device alone (%(default)s)")
    create.add_argument("--read-only", action="store_true")
    change = verb(lun, "set", "lun.set", "switch it, or set its limits")
    change.add_argument("lun")
    change.add_argument("--mode", choices=MODES, default=None)
    for made, contexts, space, users in ((create, CLIENT_CONTEXTS_DEFAULT, 0, []), (change, None, None, None)):
        made.add_argument("--client-contexts", type=int, default=contexts, help="contexts that one process may have")
        made.add_argument("--client-size", type=size, default=space, help="of all virtual LUNs of one user; 0: no limit")
        made.add_argument("--user", dest="users", action="append", default=users, help="who may use it; repeat for several")
    change.add_argument("--everybody", dest="users", action="store_const", const=[], help="whoever reaches the socket may use it")
    for name, method, text in (
        ("remove", "lun.remove", "forget it; its data stay"),
        ("contexts", "lun.contexts", "who uses it"),
        ("stats", "lun.stats", "what its engine did since it was started"),
    ):
        verb(lun, name, method, text).add_argument("lun")
