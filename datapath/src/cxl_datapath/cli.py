# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath`: the daemon's methods for people. Tables by default, `--json` for programs."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import __version__, cli_cbd, cli_dcd, cli_kmem_blk, cli_lun
from .cli_values import as_options, size
from .client import RUNTIME, Client
from .errors import Code, DatapathError, from_errno, printable
from .mhsld import command as mhsld
from .tables import show


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="the daemon's answer as JSON")
    top = argparse.ArgumentParser("cxl-datapath", description="Talks to cxl-datapathd on this host.", parents=[common])
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--runtime", type=Path, default=RUNTIME, help="runtime folder of the daemon (%(default)s)")
    nouns = top.add_subparsers(dest="noun", required=True, metavar="{hello,status,cbd,kmem-blk,lun,dcd,mhsld}")

    def verb(group: Any, name: str, method: str, help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(name, help=help, parents=[common])
        made.set_defaults(method=method)
        return made

    verb(nouns, "hello", "hello", "is the daemon there")
    verb(nouns, "status", "status", "everything that this host has and sees")
    cli_cbd.add(nouns, verb)
    cli_kmem_blk.add(nouns, verb)
    cli_lun.add(nouns, verb)
    cli_dcd.add(nouns, verb)
    mhsld.add_arguments(nouns, common, size)
    return top


def _ask(runtime: Path, method: str, params: dict[str, Any]) -> Any:
    def say(words: str) -> None:
        print(f"cxl-datapath: waiting for {printable(words)}", file=sys.stderr)

    with Client(runtime, say) as client:
        return client.call(method, **params)


def _warnings(answer: Any) -> list[str]:
    """What the daemon says beside what was asked for, and done."""
    return list(answer.get("warnings", [])) if isinstance(answer, dict) else []


# A verb with `run` needs no daemon; one with `good` asks something of the answer, and fails when that is not so.
_NOT_PARAMS = {"json", "runtime", "noun", "object", "verb", "method"}


def main(argv: list[str] | None = None, write: Callable[[str], None] = print) -> int:
    """Exit status 0, or 1 with one line on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a name must not cost the answer
    given = parser().parse_args(argv)
    options = vars(given)
    params = {name: value for name, value in options.items() if name not in _NOT_PARAMS}
    try:
        answer = given.run(given) if "run" in given else _ask(options["runtime"], options["method"], params)
    except DatapathError as error:
        # What it is about may be a parameter of the daemon's that came as an option.
        option = f"--{error.object.replace('_', '-')}"
        typed = {word.partition("=")[0] for word in (sys.argv[1:] if argv is None else argv)}
        about = option if option in typed else error.object
        print(f"cxl-datapath: {about}{as_options(str(error).removeprefix(error.object))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"cxl-datapath: {DatapathError(Code.FAILED, options['method'], 'interrupted', 'the daemon goes on with it')}",
            file=sys.stderr,
        )
        return 1
    for warning in _warnings(answer):
        print(f"cxl-datapath: beware: {printable(as_options(warning))}", file=sys.stderr)
    try:
        write(json.dumps(answer, indent=2) if options.get("json") else show(options["method"], answer))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing is left that could fail when Python ends
        print(f"cxl-datapath: {from_errno(error.errno or 0, options['method'], 'write the answer')}", file=sys.stderr)
        return 1
    return 0 if "good" not in given or given.good(answer) else 1


if __name__ == "__main__":
    sys.exit(main())
