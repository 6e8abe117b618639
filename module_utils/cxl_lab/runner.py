# SPDX-License-Identifier: GPL-3.0-or-later
"""Every command that a module runs on a host goes through a runner, so that every plan is tested without a host."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Protocol, Sequence

from .errors import LabError


@dataclass(frozen=True)
class Result:
    """What a finished command left behind."""

    rc: int
    stdout: str
    stderr: str


class Runner(Protocol):
    """What a plan needs of a host: run a command (an argument list, never a shell line) to its end."""

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 120) -> Result: ...


#: The same for every caller: root's folders are on it, a user's own are not.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class HostRunner:
    """Runs commands on this host with a C locale, so that messages can be told apart."""

    def run(self, argv: Sequence[str], *, stdin: str = "", timeout: float = 120) -> Result:
        if shutil.which(argv[0], path=_PATH) is None:
            raise LabError(argv[0], "command is not installed on this host", "install the package that carries it", cmd=argv)
        try:
            done = subprocess.run(
                list(argv),
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired as late:
            raise LabError(argv[0], f"did not end within {timeout:.0f} s", "look at dmesg of the host", cmd=argv) from late
        except OSError as error:
            raise LabError(argv[0], f"cannot be run: {error.strerror}", "install it anew", cmd=argv) from error
        return Result(done.returncode, done.stdout, done.stderr)


def must(runner: Runner, argv: Sequence[str], subject: str, next_step: str = "", **options: Any) -> str:
    """Runs a command that has to succeed; returns its standard output.

    :raises LabError: names ``subject`` and carries the command, its exit code and its standard error.
    """
    done = runner.run(argv, **options)
    if done.rc != 0:
        problem = last_line(done.stderr) or last_line(done.stdout) or f"{argv[0]} ended with exit code {done.rc}"
        raise LabError(subject, problem, next_step, cmd=argv, rc=done.rc, stderr=done.stderr or done.stdout)
    return done.stdout


def must_json(runner: Runner, argv: Sequence[str], subject: str, **options: Any) -> Any:
    """The same for a command that prints JSON. No output at all counts as an empty list (``cxl list`` does that)."""
    text = must(runner, argv, subject, **options)
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except ValueError as bad:
        raise LabError(subject, f"{argv[0]} printed something that is no JSON: {text[:200]!r}", cmd=argv) from bad


def last_line(text: str) -> str:
    """The last line that says something; tools put the cause there."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
