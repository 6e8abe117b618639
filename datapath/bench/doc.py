# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the latest figures where people read them: docs/performance.md, its plots, and one line of README.md."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from .cases import PEERS
from .errors import BenchError
from .plots import plots
from .table import busy, markdown

DOCUMENT = Path("docs/performance.md")
PLOTS = Path("docs/performance")
README = Path("README.md")


def refresh(root: Path, out: Path, document: dict[str, Any]) -> None:
    """Rewrites what is between the marks; the prose around them is a person's."""
    _between(root / DOCUMENT, "table", "\n\n" + markdown(document) + "\n")
    _between(root / README, "speed", headline(document))
    (root / PLOTS).mkdir(exist_ok=True)
    for name in plots(document):
        shutil.copyfile(out / name, root / PLOTS / name)


def headline(document: dict[str, Any]) -> str:
    """The ratios that a reader asks for first, where they mean something."""
    if busy(document["environment"]):
        return "the last run met a busy machine, its ratios are no headline"
    rows = {row["name"]: row for row in document["results"]}

    def times(name: str) -> str:
        return " and ".join(f"{rows[name]['ratios'][peer]:.1f}" for peer in PEERS)

    return (
        f"{times('direct_4k_qd1_read')} times as fast for one 4 KiB read at a time, {times('direct_4k_qd32_read')} times for 32, "
        f"{times('direct_1m_read')} times for 1 MiB"
    )


def _between(path: Path, mark: str, text: str) -> None:
    have = path.read_text(encoding="utf-8")
    found = re.compile(rf"(<!-- bench:{mark} -->).*?(<!-- /bench:{mark} -->)", re.DOTALL)
    if not found.search(have):
        raise BenchError(str(path), f"has no mark bench:{mark}", f"put <!-- bench:{mark} --><!-- /bench:{mark} --> into it")
    path.write_text(found.sub(lambda match: match[1] + text + match[2], have), encoding="utf-8")
