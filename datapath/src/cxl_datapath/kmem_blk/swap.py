# SPDX-License-Identifier: GPL-3.0-or-later
"""A block device as swap of this host: made, switched on with discards, switched off."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import Code, DatapathError, from_errno
from ..frontends.base import run_tool

PRIORITY_MAX = 32767
_PR_SET_IO_FLUSHER = 57
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
STACK = 1 << 20  # bytes
_libc = ctypes.CDLL(None, use_errno=True)
_PROC_SWAPS = Path("/proc/swaps")

Run = Callable[..., str]


def is_on(device: Path, swaps: Path = _PROC_SWAPS) -> bool:
    """Whether the kernel swaps to the device, under whatever name."""
    real = os.path.realpath(device)
    lines = swaps.read_text(errors="replace").splitlines()[1:]
    return any(os.path.realpath(line.split()[0]) == real for line in lines if line.strip())


def switch_on(device: Path, label: str, priority: int, swaps: Path = _PROC_SWAPS, run: Run = run_tool) -> None:
    """A device that is on already, because its server was only restarted, is left alone: its content is in use."""
    if is_on(device, swaps):
        return
    for command in (
        ("mkswap", "--label", label[:15], str(device)),
        ("swapon", "--discard=pages", "--priority", str(priority), str(device)),
    ):
        if reason := run(*command):
            raise DatapathError(Code.FAILED, str(device), f"{command[0]}: {reason}", "is util-linux installed, and is this root?")


def switch_off(device: Path, swaps: Path = _PROC_SWAPS, run: Run = run_tool) -> None:
    """Brings everything back into memory first. Raises `busy` when it does not fit."""
    if not is_on(device, swaps):
        return
    if reason := run("swapoff", str(device)):
        raise DatapathError(Code.BUSY, str(device), f"swapoff: {reason}", "free memory, then try again")


def small_stacks() -> None:
    """For the threads to come: `hold_memory` keeps all of their stacks in memory."""
    threading.stack_size(STACK)


def never_wait_for_swap() -> None:
    """This process serves swap: it must not need memory that only swapping could free. Threads that are started later inherit it.
    `hold_memory` is the other half, once everything is there."""
    if _libc.prctl(_PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        print(f"cannot tell the kernel that this process serves swap: {os.strerror(ctypes.get_errno())}", file=sys.stderr)


def hold_memory() -> None:
    """Every page that this process has mapped is there from now on, and stays: one that was never touched would have to be found
    while there is none, and one of a file in memory could be swapped out, to where this process alone could bring it back from.

    What is mapped later stays once it was touched. Raises `full`.
    """
    if _libc.mlockall(_MCL_CURRENT) or _libc.mlockall(_MCL_FUTURE | _MCL_ONFAULT):
        hint = "free memory, allow it to lock all (ulimit -l), or do without swap"
        raise from_errno(ctypes.get_errno(), "swap", "keep the process that serves it in memory", hint)


def check_frontend(frontend: str, swap: bool) -> None:
    """Raises `invalid` for a front end that cannot carry swap: the kernel needs a block device that never needs memory."""
    if swap and frontend not in ("auto", "ublk"):
        raise DatapathError(Code.INVALID, "frontend", f"{frontend} cannot carry swap", "choose ublk")
