# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m bench run | lab INVENTORY | doc"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from . import environment, lab, schema
from .build import build
from .cases import CASES, LAB_NAMES
from .doc import refresh
from .errors import BenchError
from .plots import plots
from .probes import measure
from .results import rows
from .run import schedule, take
from .servers import running
from .table import markdown, text

_ROOT = Path(__file__).resolve().parents[2]
_CORE = _ROOT / "build" / "bench" / "core"
_NAMES = [case.name for case in CASES]
_MIN_RUNS = 5


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser("bench", description="Measures the data path, the machine and the peers.")
    top.add_argument("--out", type=Path, default=_ROOT / "build" / "bench", help="folder of the results (%(default)s)")
    verbs = top.add_subparsers(dest="verb", required=True)
    local = verbs.add_parser("run", help="everything that this machine can do alone")
    local.add_argument("--quick", action="store_true", help="one short run of everything: does it work?")
    labs = verbs.add_parser("lab", help="add the figures of a lab that is up")
    labs.add_argument("inventory")
    for verb in (local, labs):
        verb.add_argument("--runs", type=int, default=_MIN_RUNS, help=f"of each figure, {_MIN_RUNS} or more (%(default)s)")
        verb.add_argument("--seconds", type=float, default=1.0, help="of one run, 0.1 to 60 (%(default)s)")
    verbs.add_parser("doc", help="put the latest table and plots into docs/performance.md")
    return top


def say(line: str) -> None:
    """Progress: one line that is overwritten, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:120]}", end="", file=sys.stderr, flush=True)


def run_local(options: argparse.Namespace) -> dict[str, Any]:
    runs, seconds = (1, 0.1) if options.quick else (options.runs, options.seconds)
    facts = environment.observe(runs, seconds)
    say("building")
    tools = build(_CORE)
    with running(_CORE) as servers:
        ready = dataclasses.replace(tools, servers=servers)
        samples = take(schedule(CASES), runs, functools.partial(measure, tools=ready, seconds=seconds), say)
    say("")
    facts["load_after"] = round(os.getloadavg()[0], 2)
    return {"environment": facts, "results": rows(CASES, samples)}


def run_lab(options: argparse.Namespace) -> dict[str, Any]:
    document = latest(options.out)
    facts, results = lab.measure(options.inventory, options.runs, options.seconds)
    kept = [row for row in document["results"] if row["name"] not in LAB_NAMES]
    return {"environment": {**document["environment"], "lab": facts}, "results": [*kept, *results]}


def latest(out: Path) -> dict[str, Any]:
    path = out / "latest.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BenchError(str(path), "is not there", "run: make bench") from None
    except ValueError:
        raise BenchError(str(path), "is no JSON", "remove it and run: make bench") from None
    check(document, path, 1)
    return dict(document)


def check(document: Any, path: Path, min_runs: int) -> None:
    """:raises BenchError: when the document has another shape."""
    has_lab = isinstance(document, dict) and isinstance(document.get("environment"), dict) and "lab" in document["environment"]
    found = schema.problems(document, [*_NAMES, *(LAB_NAMES if has_lab else ())], min_runs)
    if found:
        raise BenchError(str(path), "; ".join(found[:5]), "run: make bench")


def write(document: dict[str, Any], out: Path) -> None:
    """The JSON, the table for the document, and the plots; each appears at once and whole."""
    files = {"latest.json": json.dumps(document, indent=1) + "\n", "table.md": markdown(document), **plots(document)}
    for name, content in files.items():
        fresh = out / f"{name}.new"
        fresh.write_text(content, encoding="utf-8")
        fresh.replace(out / name)


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is ended
    try:
        if options.verb == "doc":
            refresh(_ROOT, options.out, latest(options.out))
            return 0
        quick = getattr(options, "quick", False)
        if options.runs < _MIN_RUNS or not 0.1 <= options.seconds <= 60:
            raise BenchError("bench", f"RUNS has to be {_MIN_RUNS} or more, SECONDS 0.1 to 60", "correct them")
        options.out.mkdir(parents=True, exist_ok=True)
        document = run_local(options) if options.verb == "run" else run_lab(options)
        check(document, options.out / "latest.json", 1 if quick else _MIN_RUNS)
        write(document, options.out)
        print(text(document))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing was written", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    sys.exit(main())
