# SPDX-License-Identifier: GPL-3.0-or-later
"""The poison list of a memdev: which of its bytes are lost. Source: cxl-cli 81, ``cxl list --media-errors``."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from .errors import LabError
from .runner import Runner, must, must_json

_KEYS = ("offset", "length", "source")


def poison_list(runner: Runner, memdev: str) -> list[dict[str, Any]]:
    """The records of a memdev: ``offset`` and ``length`` in bytes of the device, and ``source``."""
    rows = must_json(runner, ["cxl", "list", "-M", "-m", memdev, "--media-errors"], f"poison list of {memdev}")
    return parse_poison(rows)


def parse_poison(rows: object) -> list[dict[str, Any]]:
    """
    :raises LabError: for what cxl does not print.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise LabError("cxl list", "printed no list of objects", "check that cxl-cli is version 81 or newer", observed=rows)
    records = [record for row in rows for record in row.get("media_errors") or []]
    return [{key: record.get(key) for key in _KEYS} for record in records]


def read_poison(runner: Runner, memdev: str) -> None:
    """Has the kernel read the list once more, so that it tells of it by trace events."""
    must(runner, ["tee", f"/sys/bus/cxl/devices/{memdev}/trigger_poison_list"], f"poison list of {memdev}", stdin="1\n")


def covers(records: Sequence[Mapping[str, Any]], start: int, length: int) -> bool:
    """Whether these bytes are poisoned, all of them by one record."""
    return any(
        record["offset"] <= start and start + length <= record["offset"] + record["length"]
        for record in records
        if isinstance(record["offset"], int) and isinstance(record["length"], int)
    )
