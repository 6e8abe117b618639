# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath cbd ...`: transports, hosts, backends and blkdevs."""

from __future__ import annotations

import argparse
from typing import Any

from .cli_values import Verb, id_or_name, size
from .frontends import CHOICES

_DAMAGED = "; even if its entry is damaged and may be that of a host that lives"


def add(nouns: Any, verb: Verb) -> None:
    cbd = nouns.add_parser("cbd", help="block devices over shared memory").add_subparsers(dest="object", required=True)

    transport = cbd.add_parser("transport", help="the shared memory").add_subparsers(dest="verb", required=True)
    verb(transport, "list", "cbd.transport.list", "those registered on this host")
    verb(transport, "probe", "cbd.transport.probe", "what a memory holds").add_argument("memory")
    _format_arguments(verb(transport, "format", "cbd.transport.format", "make a transport; destroys what is there"))
    verb(transport, "register", "cbd.transport.register", "join it with this host").add_argument("memory")
    verb(transport, "unregister", "cbd.transport.unregister", "leave it").add_argument("transport")

    host = cbd.add_parser("host", help="hosts in a transport").add_subparsers(dest="verb", required=True)
    verb(host, "list", "cbd.host.list", "all, with their liveness").add_argument("transport")
    clear = _one(verb(host, "clear", "cbd.host.clear", "give everything of a dead host back"))
    clear.add_argument("--force", action="store_true", help="even if live hosts use its backends; they get I/O errors")

    backend = cbd.add_parser("backend", help="local block devices given away").add_subparsers(dest="verb", required=True)
    verb(backend, "list", "cbd.backend.list", "all in a transport").add_argument("transport")
    start = verb(backend, "start", "cbd.backend.start", "serve a block device or file")
    start.add_argument("transport")
    start.add_argument("path")
    start.add_argument("--id", type=int, default=None, help="entry to use (default: a free one)")
    start.add_argument("--read-only", action="store_true", help="give it away for reading only")
    _one(verb(backend, "stop", "cbd.backend.stop", "take it back"))
    recover = _one(verb(backend, "recover", "cbd.backend.recover", "take over the backend of a dead host"))
    recover.add_argument("--path", default=None, help="its medium or a copy of it on this host (default: the same path)")
    recover.add_argument("--read-only", action="store_true", default=None, help="for reading only (default: as it was)")
    clear = _one(verb(backend, "clear", "cbd.backend.clear", "remove the entry of a dead host's backend"))
    clear.add_argument("--force", action="store_true", help="even if live hosts use it; they get I/O errors" + _DAMAGED)

    blkdev = cbd.add_parser("blkdev", help="remote block devices used here").add_subparsers(dest="verb", required=True)
    verb(blkdev, "list", "cbd.blkdev.list", "all in a transport").add_argument("transport")
    start = verb(blkdev, "start", "cbd.blkdev.start", "map a backend as a block device")
    start.add_argument("transport")
    start.add_argument("backend", type=id_or_name, help="id or path")
    start.add_argument("--queues", type=int, default=1, help="1 to 16, each takes a channel of the transport (%(default)s)")
    how = "ublk and nbd: block devices of the kernel; nbdkit: an NBD socket; auto: the first that this host has (%(default)s)"
    start.add_argument("--frontend", choices=CHOICES, default="auto", help=how)
    start.add_argument("--name", default=None, help="name under /dev or of the socket (default: cbd<id>)")
    start.add_argument("--read-only", action="store_true", help="beside a writer, too")
    start.add_argument("--shared", action="store_true", help="beside other writers that are shared as well")
    default = "(120, or twice the lease and ten seconds where that is longer)"
    start.add_argument("--io-timeout", type=int, default=None, help=f"seconds to wait for a backend that is away {default}")
    _one(verb(blkdev, "stop", "cbd.blkdev.stop", "remove it"))
    clear = _one(verb(blkdev, "clear", "cbd.blkdev.clear", "remove the entry of a dead host's blkdev"))
    clear.add_argument("--force", action="store_true", help=_DAMAGED.removeprefix("; "))


def _format_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("memory")
    made.add_argument("name")
    made.add_argument("--force", action="store_true", help="over a transport, or anything else that is there")
    for option in ("hosts", "backends", "blkdevs"):
        made.add_argument(f"--{option}", type=int, default=16, help="entries (%(default)s)")
    made.add_argument("--channels", type=int, default=None, help="(as many as fit, at most 64)")
    made.add_argument("--ring-depth", type=int, default=64, help="(%(default)s)")
    made.add_argument("--slot-bytes", type=size, default=65536, help="(%(default)s)")
    made.add_argument("--coherence", choices=("hardware", "software"), default="software", help="(%(default)s)")
    made.add_argument("--lease-ms", type=int, default=5000, help="a host that is silent for so long is dead (%(default)s)")
    made.add_argument("--no-data-crc", dest="data_crc", action="store_false", help="payload without checksums")


def _one(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    made.add_argument("transport")
    what = "id, or what the list shows: name of a host, path of a backend, on its own host the name of a blkdev"
    made.add_argument("id", type=id_or_name, help=what)
    return made
