# SPDX-License-Identifier: GPL-3.0-or-later
"""Claims on a multi-headed device: the data path package on the hypervisor makes them, because they need compare-and-swap."""

from __future__ import annotations

import json
from typing import Any, Mapping, Sequence

from ..errors import LabError
from ..runner import Runner, last_line

#: Where the role cxl_datapath puts the program on every host, the hypervisor included.
PROGRAM = "/opt/cxl-datapath/current/bin/cxl-datapath"

Range = tuple[int, int]  # offset, length in the memory; bytes


class Claims:
    """The state file of one device. Heads are named as the hosts that they belong to.

    :param path: of the state file.
    """

    def __init__(self, runner: Runner, path: str, program: str = PROGRAM) -> None:
        self.path = path
        self._runner = runner
        self._program = program

    def create(self, size: int, block: int, heads: int, names: Sequence[str]) -> dict[str, Any]:
        arguments = ["--size", str(size), "--block", str(block), "--heads", str(heads), "--names", ",".join(names)]
        return self._ask("create", *arguments)

    def show(self) -> dict[str, Any]:
        return self._ask("show")

    def claim(self, head: str, ranges: Sequence[Range], shared: bool) -> None:
        """:raises LabError: with the name of the head that has a block of it."""
        self._ask("claim", head, *_texts(ranges), *(["--shared"] if shared else []))

    def release(self, head: str, ranges: Sequence[Range]) -> None:
        self._ask("release", head, *_texts(ranges))

    def clear(self, head: str) -> int:
        return int(self._ask("clear", head)["released_blocks"])

    def audit(self, held: Mapping[str, Sequence[Range]], *, repair: bool) -> dict[str, Any]:
        """:param held: by head; a head that is not in it is not judged."""
        text = json.dumps({head: [list(each) for each in ranges] for head, ranges in held.items()})
        return self._ask("audit", *(["--repair"] if repair else []), stdin=text)

    def _ask(self, verb: str, *arguments: str, stdin: str = "") -> dict[str, Any]:
        argv = [self._program, "mhsld", verb, "--json", self.path, *arguments]
        done = self._runner.run(argv, stdin=stdin)
        if done.rc:
            said = last_line(done.stderr).removeprefix("cxl-datapath: ") or f"ended with exit code {done.rc}"
            raise LabError(f"state file {self.path}", said, cmd=argv, rc=done.rc, stderr=done.stderr)
        try:
            answer = json.loads(done.stdout)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise LabError(
                f"state file {self.path}", "the data path program answered something unreadable", "install it anew", cmd=argv
            )
        return answer


def _texts(ranges: Sequence[Range]) -> list[str]:
    return [f"{offset}:{size}" for offset, size in ranges]
