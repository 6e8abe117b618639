# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of the daemon as text for people."""

from __future__ import annotations

from typing import Any

_COLUMNS = {
    "transport": ("name", "state", "memory", "size", "host_id", "coherence", "channels", "slot_bytes", "reason"),
    "host": ("id", "name", "state", "alive", "fenced", "epoch", "local"),
    "backend": ("id", "host", "path", "capacity", "state", "alive", "read_only", "blkdevs", "worker"),
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
    noun = method.split(".")[1] if method.startswith("cbd.") else ""
    if method.startswith("lun."):
        noun = _LUN_ANSWERS.get(method, "lun")
    if method == "status":
        return _status(answer)
    if isinstance(answer, list):
        return table(_COLUMNS[noun], answer) if answer else "none"
    if noun in ("host", "backend", "blkdev", "lun"):
        return table(_COLUMNS[noun], [answer])
    return "\n".join(f"{key}: {_cell(value)}" for key, value in answer.items())


def table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    """Columns that no row has a value for are left out."""
    used = [column for column in columns if any(row.get(column) is not None for row in rows)]
    lines = [[column.upper() for column in used]] + [[_cell(row.get(column)) for column in used] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(used))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


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
            text = f"{about}: {message}" + (f"; {hint}" if (hint := value.get("hint")) else "")
        case {"state": "running", "info": {"path_state": "paused" | "offline" as path, "path_reason": reason}}:
            text = f"{path} ({reason})"
        case {"state": state, "error": error}:
            text = f"{state} ({_cell(error)})" if error else str(state)
        case dict():
            text = " ".join(f"{key}={_cell(each)}" for key, each in value.items())
        case _:
            text = str(value)
    # Names and messages can come from another host: no control characters reach the terminal.
    return "".join(character if character.isprintable() else "?" for character in text)


def _status(answer: dict[str, Any]) -> str:
    parts = [f"host {answer['host']}, version {answer['version']}, pid {answer['pid']}, runtime {answer['runtime']}"]
    if not answer["transports"]:
        parts.append("no transport is registered")
    for transport in answer["transports"]:
        parts.append("\n" + table(_COLUMNS["transport"], [transport]))
        for noun in ("host", "backend", "blkdev"):
            if rows := transport[f"{noun}_list"]:
                parts.append(f"\n{noun}s of {transport['name']}\n{table(_COLUMNS[noun], rows)}")
    return "\n".join(parts)
