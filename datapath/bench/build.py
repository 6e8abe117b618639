# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds what is measured, as it is shipped, and what measures it."""

from __future__ import annotations

from pathlib import Path

from .errors import output_of
from .probes import Tools

_DATAPATH = Path(__file__).resolve().parent.parent
_NEXT = "run: scripts/bootstrap test"
_CC = ["cc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-O2", "-Wall", "-Wextra", "-Werror"]


def build(folder: Path) -> Tools:
    """cxl-bench, cblk-bench, the libraries and the plugin in ``folder``, and beside them the NBD load."""
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DCXL_BENCH=ON"]
    output_of(["cmake", "-S", _DATAPATH, "-B", folder, *options], _NEXT)
    output_of(["cmake", "--build", folder], _NEXT, timeout=600)
    load = folder / "nbd_load"
    output_of([*_CC, _DATAPATH / "bench" / "nbd_load.c", "-o", load, "-lnbd"], _NEXT)
    return Tools(folder / "cxl-bench", load, folder / "cblk-bench")
