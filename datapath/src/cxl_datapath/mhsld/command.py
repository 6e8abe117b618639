# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath mhsld`: the state file of a multi-headed device. Needs no daemon: the file is the arbiter."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import Code, DatapathError
from .audit import Finding, audit
from .layout import plan_layout
from .state import Range, Span, StateFile, create

Row = dict[str, Any]
HELD_MAX = 1 << 24  # characters of an answer about what heads hold


def add_arguments(nouns: Any, common: argparse.ArgumentParser, size: Callable[[str], int]) -> None:
    """The verbs, below the noun `mhsld`."""
    verbs = nouns.add_parser("mhsld", help="claims on a multi-headed device").add_subparsers(dest="verb", required=True)

    def verb(name: str, run: Callable[[argparse.Namespace], Any], help: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = verbs.add_parser(name, help=help, parents=[common])
        made.set_defaults(run=run, method=f"mhsld.{name}")
        made.add_argument("path", type=Path, help="state file, for example /dev/shm/pool0.mhsld")
        return made

    def extents(made: argparse.ArgumentParser) -> None:
        made.add_argument("head", help="number or name")
        made.add_argument("extents", nargs="+", metavar="OFFSET:LENGTH", type=lambda text: _extent(text, size))

    made = verb("create", _create, "make the file; one that is there stays")
    made.add_argument("--size", type=size, required=True, help="of the shared memory")
    made.add_argument("--block", type=size, default=2 << 20, help="block size of the regions (2M)")
    made.add_argument("--heads", type=int, default=8, help="how many (%(default)s)")
    made.add_argument("--names", default="", help="names of the first heads, with commas between them")
    verb("show", _show, "who has what")
    made = verb("claim", _claim, "claim blocks for a head, all or none")
    extents(made)
    made.add_argument("--shared", action="store_true", help="beside heads that claim them shared, too")
    extents(verb("release", _release, "take blocks from a head"))
    verb("clear", _clear, "take everything from a head, as when it starts").add_argument("head", help="number or name")
    made = verb("audit", _audit, "compare with what the heads hold: JSON on standard input, {head: [[offset, length], ...]}")
    made.add_argument(
        "--repair", action="store_true", help="release stale claims, claim what is held; no fabric manager may be at work"
    )


def _extent(text: str, size: Callable[[str], int]) -> Range:
    offset, colon, length = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not OFFSET:LENGTH such as 128M:64M")
    return size(offset), size(length)


def _create(options: argparse.Namespace) -> Row:
    names = options.names.split(",") if options.names else []
    if len(names) > options.heads:
        raise DatapathError(Code.INVALID, "heads", f"{len(names)} names for {options.heads} heads", "give more heads")
    wanted = plan_layout(options.size, options.block, [*names, *[""] * (min(options.heads, 65) - len(names))])
    made = create(options.path, wanted)
    with StateFile(options.path) as state:
        have = state.layout
        if (have.heads, have.block, have.blocks) != (wanted.heads, wanted.block, wanted.blocks):
            what = f"is there with {len(have.heads)} heads and {have.blocks} blocks of {have.block} bytes, other ones than wanted"
            hint = "give these, or stop all heads, remove it and create it anew"
            raise DatapathError(Code.EXISTS, str(options.path), what, hint)
        return {"created": made, **_view(state)}


def _show(options: argparse.Namespace) -> Row:
    with StateFile(options.path) as state:
        return _view(state)


def _claim(options: argparse.Namespace) -> Row:
    with StateFile(options.path) as state:
        state.claim(_head(state, options.head), [_blocks(state, each) for each in options.extents], options.shared)
        return _view(state)


def _release(options: argparse.Namespace) -> Row:
    with StateFile(options.path) as state:
        released = state.release(_head(state, options.head), [_blocks(state, each) for each in options.extents])
        return {"released_blocks": released, **_view(state)}


def _clear(options: argparse.Namespace) -> Row:
    with StateFile(options.path) as state:
        return {"released_blocks": state.clear(_head(state, options.head)), **_view(state)}


def _audit(options: argparse.Namespace) -> Row:
    with StateFile(options.path) as state:
        held = _held(state, sys.stdin.read(HELD_MAX))
        found = audit(state.spans(), held, state.layout.blocks)
        left = repaired(state, held, found) if options.repair else found
        return {"findings": [_finding(state, each) for each in found], "left": [_finding(state, each) for each in left]}


def repaired(state: StateFile, held: dict[int, list[Range]], found: list[Finding]) -> list[Finding]:
    """What is left after the repair. What is stale goes first: it can be in the way of what is held."""
    for finding in found:
        if finding.kind == "stale":
            state.release(finding.head, [(finding.first, finding.count)])
    for finding in audit(state.spans(), held, state.layout.blocks):
        if finding.kind == "unclaimed":
            state.claim(finding.head, [(finding.first, finding.count)])
    return audit(state.spans(), held, state.layout.blocks)


def _held(state: StateFile, text: str) -> dict[int, list[Range]]:
    """Hostile until here: it comes from another program."""
    try:
        raw = json.loads(text)
        return {
            _head(state, head): [_blocks(state, (_number(offset), _number(length))) for offset, length in extents]
            for head, extents in raw.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        what = f"is not what heads hold: {error}"
        raise DatapathError(Code.INVALID, "standard input", what, 'write {"0": [[offset, length]], "1": []}') from None


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r:.40} is no number of bytes")
    return value


def _head(state: StateFile, text: str) -> int:
    number = text.isascii() and text.isdecimal() and len(text) < 5
    return state.head(int(text) if number else text)


def _blocks(state: StateFile, extent: Range) -> Range:
    """Bytes as blocks."""
    offset, length = extent
    block = state.layout.block
    if offset < 0 or length <= 0 or offset % block or length % block:
        what = f"{offset}:{length} does not begin and end at a multiple of {block} bytes"
        raise DatapathError(Code.INVALID, "extent", what, "align it to the blocks of the device")
    return offset // block, length // block


def _view(state: StateFile) -> Row:
    layout = state.layout
    return {
        "path": str(state.path),
        "uuid": str(layout.uuid),
        "size": layout.capacity,
        "block": layout.block,
        "heads": [state.head_name(head) for head in range(len(layout.heads))],
        "claims": [_claimed(state, span) for span in state.spans()],
    }


def _claimed(state: StateFile, span: Span) -> Row:
    block = state.layout.block
    where = {"offset": span.first * block, "length": span.count * block}
    return where | {"heads": state.holder_names(span.holders), "shared": bool(span.shared)}


def _finding(state: StateFile, finding: Finding) -> Row:
    block = state.layout.block
    where = {"offset": finding.first * block, "length": finding.count * block}
    others = {"others": state.holder_names(finding.others)} if finding.others else {}
    return {"kind": finding.kind, "head": state.head_name(finding.head), **where, **others}
