# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath`: the daemon's methods for people. Tables by default, `--json` for programs."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__
from .client import RUNTIME, Client
from .cxlflash.desired import CLIENT_CONTEXTS_DEFAULT
from .cxlflash.desired import MODES as LUN_MODES
from .errors import Code, DatapathError, from_errno
from .frontends import CHOICES
from .tables import show

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(text: str) -> int:
    """Bytes of "4096", "64K", "1M"."""
    found = re.fullmatch(r"([0-9]{1,15})([KMG]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 65536 or 64K")
    return int(found[1]) * _UNITS[found[2]]


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="the daemon's answer as JSON")
    top = argparse.ArgumentParser("cxl-datapath", description="Talks to cxl-datapathd on this host.", parents=[common])
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--runtime", type=Path, default=RUNTIME, help="runtime folder of the daemon (%(default)s)")
    nouns = top.add_subparsers(dest="noun", required=True, metavar="{hello,status,cbd,lun}")

    def verb(group: Any, name: str, method: str, help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(name, help=help, parents=[common])
        made.set_defaults(method=method)
        return made

    verb(nouns, "hello", "hello", "is the daemon there")
    verb(nouns, "status", "status", "everything that this host has and sees")
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
    start.add_argument("--read-only", action="store_true")
    _one(verb(backend, "stop", "cbd.backend.stop", "take it back"))
    recover = _one(verb(backend, "recover", "cbd.backend.recover", "take over the backend of a dead host"))
    recover.add_argument("--path", default=None, help="its medium or a copy of it on this host (default: the same path)")
    recover.add_argument("--read-only", action="store_true", default=None)
    clear = _one(verb(backend, "clear", "cbd.backend.clear", "remove the entry of a dead host's backend"))
    clear.add_argument("--force", action="store_true", help="even if live hosts use it; they get I/O errors")

    blkdev = cbd.add_parser("blkdev", help="remote block devices used here").add_subparsers(dest="verb", required=True)
    verb(blkdev, "list", "cbd.blkdev.list", "all in a transport").add_argument("transport")
    start = verb(blkdev, "start", "cbd.blkdev.start", "map a backend as a block device")
    start.add_argument("transport")
    start.add_argument("backend", type=_named, help="id or path")
    start.add_argument("--queues", type=int, default=1)
    start.add_argument("--frontend", choices=CHOICES, default="auto")
    start.add_argument("--name", default=None, help="name under /dev or of the socket (default: cbd<id>)")
    start.add_argument("--read-only", action="store_true", help="beside a writer, too")
    start.add_argument("--shared", action="store_true", help="beside other writers that are shared as well")
    start.add_argument("--io-timeout", type=int, default=120, help="seconds to wait for a backend that is away (%(default)s)")
    _one(verb(blkdev, "stop", "cbd.blkdev.stop", "remove it"))
    _one(verb(blkdev, "clear", "cbd.blkdev.clear", "remove the entry of a dead host's blkdev"))
    _lun_verbs(nouns.add_parser("lun", help="LUNs for programs of this host").add_subparsers(dest="verb", required=True), verb)
    return top


def _lun_verbs(lun: Any, verb: Callable[..., argparse.ArgumentParser]) -> None:
    verb(lun, "list", "lun.list", "all of this host")
    create = verb(lun, "create", "lun.create", "make a block device or file a LUN")
    create.add_argument("path")
    create.add_argument("name")
    create.add_argument("--wwid", default=None, help="32 hexadecimal digits (default: the device's, or made of the path)")
    create.add_argument("--mode", choices=LUN_MODES, default="superpipe", help="legacy: leave the device alone (%(default)s)")
    create.add_argument("--read-only", action="store_true")
    change = verb(lun, "set", "lun.set", "switch it, or set its limits")
    change.add_argument("lun")
    change.add_argument("--mode", choices=LUN_MODES, default=None)
    for made, contexts, space, users in ((create, CLIENT_CONTEXTS_DEFAULT, 0, []), (change, None, None, None)):
        made.add_argument("--client-contexts", type=int, default=contexts, help="contexts that one process may have")
        made.add_argument("--client-size", type=size, default=space, help="of all virtual LUNs of one user; 0: no limit")
        made.add_argument("--user", dest="users", action="append", default=users, help="who may use it; repeat for several")
    for name, method, text in (
        ("remove", "lun.remove", "forget it; its data stay"),
        ("contexts", "lun.contexts", "who uses it"),
        ("stats", "lun.stats", "what its engine did since it was started"),
    ):
        verb(lun, name, method, text).add_argument("lun")


def _format_arguments(made: argparse.ArgumentParser) -> None:
    made.add_argument("memory")
    made.add_argument("name")
    made.add_argument("--force", action="store_true", help="over an existing transport or file system")
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
    made.add_argument("id", type=_named, help="id, or what the list shows: name of a host or blkdev, path of a backend")
    return made


def _named(text: str) -> int | str:
    """A number is an id, everything else a name."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else text


_NOT_PARAMS = {"json", "runtime", "noun", "object", "verb", "method"}


def main(argv: list[str] | None = None, write: Callable[[str], None] = print) -> int:
    """Exit status 0, or 1 with one line on stderr."""
    options = vars(parser().parse_args(argv))
    params = {name: value for name, value in options.items() if name not in _NOT_PARAMS}
    try:
        with Client(options["runtime"]) as client:
            answer = client.call(options["method"], **params)
    except DatapathError as error:
        print(f"cxl-datapath: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"cxl-datapath: {DatapathError(Code.FAILED, options['method'], 'interrupted', 'the daemon goes on with it')}",
            file=sys.stderr,
        )
        return 1
    try:
        write(json.dumps(answer, indent=2) if options.get("json") else show(options["method"], answer))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing is left that could fail when Python ends
        print(f"cxl-datapath: {from_errno(error.errno or 0, options['method'], 'write the answer')}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
