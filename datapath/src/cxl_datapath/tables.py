# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of the daemon as text for people."""

from __future__ import annotations

import time
from typing import Any

from .cli_values import as_options
from .errors import printable

_COLUMNS = {
    "transport": ("name", "state", "memory", "size", "host_id", "coherence", "channels", "slot_bytes", "reason"),
    "host": ("id", "name", "state", "alive", "fenced", "epoch", "local"),
    "backend": ("id", "host", "path", "capacity", "state", "alive", "read_only", "blkdevs", "worker"),
    "pool": (
        "name",
        "state",
        "memories",
        "capacity",
        "total",
        "index",
        "blocks",
        "swapped",
        "leased",
        "free",
        "device",
        "reason",
    ),
    "lease": ("id", "pid", "pages", "kind", "recalled"),
    "blkdev": (
        "id",
        "name",
        "host",
        "backend",
        "device",
        "frontend",
        "queues",
        "capacity",
        "read_only",
        "shared",
        "state",
        "alive",
        "worker",
    ),
    "region": (
        "serial",
        "function",
        "state",
        "base",
        "size",
        "available",
        "limit",
        "remember",
        "data_path",
        "mappings",
        "reason",
    ),
    "extent": ("serial", "dpa", "size", "mappings", "asked_back"),
    "mapping": ("serial", "name", "dpa", "size", "path", "offset", "reason"),
    "event": ("time", "serial", "what", "ranges"),
    "lun": (
        "name",
        "wwid",
        "path",
        "mode",
        "state",
        "size",
        "chunk_size",
        "free",
        "use",
        "contexts",
        "handles",
        "users",
        "worker",
    ),
    "contexts": ("slot", "pid", "uid", "state", "depth", "read_only", "handles"),
}
_LUN_ANSWERS = {"lun.contexts": "contexts", "lun.stats": ""}


def show(method: str, answer: Any) -> str:
    """A table for lists and started things, `key: value` lines for the rest."""
    noun = method.split(".")[1] if "." in method else ""
    if method.startswith("lun."):
        noun = _LUN_ANSWERS.get(method, "lun")
    if method == "status":
        return _status(answer)
    if isinstance(answer, list):
        return table(_COLUMNS[noun], [_readable(_flat(row)) for row in answer]) if answer else "none"
    if noun in ("volume", "swap") or (noun == "pool" and "pages" in answer):
        return table(_COLUMNS["pool"], [_flat(answer)])
    if noun in ("host", "backend", "blkdev", "lun") or (noun == "transport" and "state" in answer):
        return table(_COLUMNS[noun], [answer])
    return "\n".join(_field(key, value) for key, value in _readable(answer).items())


def _field(key: str, value: Any) -> str:
    """A list of objects is a table of its own."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        columns = tuple(dict.fromkeys(column for row in value for column in row))
        return f"{key}:\n{table(columns, value)}"
    return f"{key}: {_cell(value)}"


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """A moment as a time of day, numbers that name a thing as such."""
    moment = {"time": time.strftime("%H:%M:%S", time.localtime(row["time"]))} if "time" in row else {}
    keys = ("serial", "base", "dpa", *(("offset",) if "path" in row else ()))  # an offset in a file can be a host address
    names = {key: hex(row[key]) for key in keys if isinstance(row.get(key), int)}
    return {**row, **moment, **names}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A pool's numbers of pages, beside its name."""
    match row:
        case {"pages": {"pages": total, "fixed": index, "blocks": blocks, "swap": swap, "leases": leases, "free": free}}:
            device = (row.get("volume") or {}).get("device")
            return row | {
                "total": total,
                "index": index,
                "blocks": blocks,
                "swapped": swap,
                "leased": leases,
                "free": free,
                "device": device,
            }
    return row


def table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    """Columns that no row has a value for are left out."""
    rows = [_given_up(row) for row in rows]
    used = [column for column in columns if any(row.get(column) is not None for row in rows)]
    lines = [[column.upper() for column in used]] + [[_cell(row.get(column)) for column in used] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(used))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def _given_up(row: dict[str, Any]) -> dict[str, Any]:
    """What was lost is not waited for, however often its worker looks; what was forgotten has none."""
    match row:
        case {"state": "lost", "worker": {"state": "running", "info": {"path_state": "offline"}}}:
            return row  # a device whose requests fail: its worker knows why
        case {"state": "lost", "worker": {"error": error}}:
            return row | {"worker": {"state": "given up", "error": error}}
        case {"state": "forgotten", "error": error}:
            return row | {"worker": {"state": "none", "error": error}}
    return row


def human(number: int) -> str:
    """1536 -> 1536, 65536 -> 64K: exact, or left alone."""
    for unit, factor in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if number >= factor and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def _cell(value: Any) -> str:
    match value:
        case None | []:
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case int():
            text = human(value)
        case {"handle": number, "kind": kind, "size": size}:
            text = f"{number}:{kind}:{human(size)}"
        case list():
            text = ",".join(_cell(each) for each in value)
        case {"message": message, "object": about}:
            text = as_options(f"{about}: {message}" + (f"; {hint}" if (hint := value.get("hint")) else ""))
        case {"state": "running", "info": {"path_state": "paused" | "offline" as path, "path_reason": reason}}:
            text = f"{path} ({reason})"
        case {"state": state, "error": error}:
            text = f"{state} ({_cell(error)})" if error else str(state)
        case dict():
            text = " ".join(f"{key}={_cell(each)}" for key, each in value.items())
        case _:
            text = str(value)
    return printable(text)


def _status(answer: dict[str, Any]) -> str:
    parts = [f"host {answer['host']}, version {answer['version']}, pid {answer['pid']}, runtime {answer['runtime']}"]
    parts += [f"waiting for {_cell(words)}" for words in answer["waits_for"]]
    if not answer["transports"] and not answer["pools"]:
        parts.append("no transport is registered, and no pool started")
    if answer["pools"]:
        parts.append("\n" + table(_COLUMNS["pool"], [_flat(row) for row in answer["pools"]]))
    for transport in answer["transports"]:
        parts.append("\n" + table(_COLUMNS["transport"], [transport]))
        for noun in ("host", "backend", "blkdev"):
            if rows := transport[f"{noun}_list"]:
                parts.append(f"\n{noun}s of {transport['name']}\n{table(_COLUMNS[noun], rows)}")
    return "\n".join(parts)
