# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath kmem-blk ...`: pools of pages, and the checker, which needs no daemon."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Any

from .backing import looked_at
from .cli_values import Verb, size
from .errors import Code, DatapathError
from .frontends import CHOICES
from .kmem_blk.check import check, repair
from .kmem_blk.format import probe, read_range
from .kmem_blk.layout import RangeHeader, Superblock
from .kmem_blk.pool import lock_memory
from .mapping import Mapping
from .memory import Memory, resolve


def add(nouns: Any, verb: Verb) -> None:
    kmem = nouns.add_parser("kmem-blk", help="pools of pages: blocks and system memory").add_subparsers(
        dest="object", required=True
    )
    pool = kmem.add_parser("pool", help="the pages").add_subparsers(dest="verb", required=True)
    verb(pool, "list", "kmem_blk.pool.list", "those started on this host")
    verb(pool, "probe", "kmem_blk.pool.probe", "what a memory holds").add_argument("memory")
    _format(verb(pool, "format", "kmem_blk.pool.format", "make a pool; destroys what is there"))
    _start(verb(pool, "start", "kmem_blk.pool.start", "serve it, or change its limits"))
    verb(pool, "stop", "kmem_blk.pool.stop", "end it; blocks stay as they are").add_argument("pool")
    grow = _range(verb(pool, "grow", "kmem_blk.pool.grow", "add a memory"))
    grow.add_argument("--force", action="store_true", help="over what the memory carries")
    shrink = _range(verb(pool, "shrink", "kmem_blk.pool.shrink", "give an added memory back"))
    shrink.add_argument("--move", action="store_true", help="move blocks out of it first")
    volume = kmem.add_parser("volume", help="its blocks as a device of this host").add_subparsers(dest="verb", required=True)
    start = verb(volume, "start", "kmem_blk.volume.start", "show them")
    start.add_argument("pool")
    start.add_argument("--name", default=None, help="name under /dev or of the socket (default: kmem<N>)")
    start.add_argument("--frontend", choices=CHOICES, default="auto")
    start.add_argument("--queues", type=int, default=1)
    verb(volume, "stop", "kmem_blk.volume.stop", "remove the device").add_argument("pool")
    swap = kmem.add_parser("swap", help="its free pages as swap of this host").add_subparsers(dest="verb", required=True)
    start = verb(swap, "start", "kmem_blk.swap.start", "swap to it")
    start.add_argument("pool")
    start.add_argument("size", type=size, help="at most so many bytes of pages")
    start.add_argument("--priority", type=int, default=100, help="(%(default)s)")
    verb(swap, "stop", "kmem_blk.swap.stop", "bring everything back into memory").add_argument("pool")
    lease = kmem.add_parser("lease", help="its pages in programs").add_subparsers(dest="verb", required=True)
    verb(lease, "list", "kmem_blk.lease.list", "who has how many").add_argument("pool")
    checker = verb(kmem, "check", "kmem_blk.check", "look for damage in a pool that nobody has open")
    checker.set_defaults(run=_check, good=lambda row: row["clean"])
    checker.add_argument("memory", help="the one that was formatted")
    checker.add_argument("further", nargs="*", help="all memories that were added: the table of them is checked, too")
    checker.add_argument("--repair", action="store_true", help="make holes of entries that name no page, or one that is used")
    checker.add_argument(
        "--force", action="store_true", help="with --repair: also where the page may be of a memory that is not named"
    )


def _format(made: argparse.ArgumentParser) -> None:
    made.add_argument("memory")
    made.add_argument("name")
    made.add_argument("--thick", action="store_true", help="every block has its page from the start")
    made.add_argument("--spare", type=int, default=16, help="pages through which blocks are rewritten (%(default)s)")
    made.add_argument("--force", action="store_true", help="over an existing pool, transport or file system")


def _start(made: argparse.ArgumentParser) -> None:
    made.add_argument("memories", nargs="+", help="the formatted memory, then those that were added")
    made.add_argument("--reserve", type=int, default=0, help="pages that only blocks may take (%(default)s)")
    made.add_argument("--lease-limit", type=int, default=0, help="pages that one process may lease (%(default)s)")
    made.add_argument("--lease-group", default=None, help="members of this group may lease, too")
    made.add_argument("--recall-ms", type=int, default=5000, help="how long a write waits for pages (%(default)s)")


def _range(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("pool")
    made.add_argument("memory")
    return made


def _header(memory: Memory, pool: Superblock | None) -> RangeHeader:
    with looked_at(memory) as seen:
        header = read_range(seen)
    if header is None or pool is None or header.pool != pool.uuid:
        raise DatapathError(Code.INVALID, memory.spec, "is no memory of this pool, or its header is damaged", "leave it out")
    return header


def _check(options: argparse.Namespace) -> dict[str, Any]:
    """What was found, repaired or not, and whether it is clean now. Raises `busy` while a pool on the memory is open."""
    memory, *further = map(resolve, [options.memory, *options.further])
    with contextlib.ExitStack() as locks:
        for each in (memory, *further):
            locks.callback(os.close, lock_memory(each))
        with looked_at(memory) as seen:
            headers = [_header(each, probe(seen).superblock) for each in further]
            found = left = check(seen, headers, options.force)
        if options.repair and (found.bad or found.table):
            with Mapping(memory) as mapping:
                repair(mapping, found)
                left = check(mapping, headers, options.force)
    repaired = len(found.bad) + len(found.table) - len(left.bad) - len(left.table)
    return {"memory": memory.spec, **left.to_json(), "problems": list(found.problems), "repaired": repaired}
