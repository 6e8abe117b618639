# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host has and how it is, in one look; and the table of all hosts."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from . import dax
from .cxl_list import format_serial, list_memdevs, list_regions
from .datapath_client import DaemonAbsent, DatapathClient
from .errors import LabError
from .ndctl_list import list_nd_regions
from .runner import Runner, must_json
from .sizes import format_size

_COLUMNS = ("host", "machine", "up", "kernel", "memdevs", "regions", "namespaces", "dax", "daemon", "transports")
#: What stands in a column whose facts could not be had.
_UNKNOWN = "?"


def collect(runner: Runner, runtime_dir: str, devices: bool = True, proc: Path = Path("/proc")) -> dict[str, Any]:
    """Everything about this host. What cannot be had is None, with the reason in ``problems``.

    :param devices: whether the CXL devices of the machine are its own; it has none otherwise.
    """
    problems: list[str] = []

    def tried(look: Callable[[], Any]) -> Any:
        try:
            return look()
        except LabError as error:
            problems.append(str(error))
            return None

    def own(look: Callable[[], Any]) -> Any:
        return tried(look) if devices else []

    return {
        "kernel": platform.release(),
        "uptime_s": int(float((proc / "uptime").read_text(encoding="ascii").split()[0])),
        "memdevs": own(lambda: [{**asdict(one), "serial": format_serial(one.serial)} for one in list_memdevs(runner)]),
        "regions": own(lambda: [asdict(one) for one in list_regions(runner)]),
        "namespaces": own(lambda: [asdict(space) for region in list_nd_regions(runner) for space in region.namespaces]),
        "dax": own(lambda: [dax.state(one) for one in dax.parse_devices(must_json(runner, dax.LIST, "dax devices"))]),
        "daemon": tried(lambda: _daemon(runtime_dir)),
        "problems": problems,
    }


def _daemon(runtime_dir: str) -> dict[str, Any]:
    """Version and transports of the daemon; ``running`` false where there is none."""
    try:
        with DatapathClient(runtime_dir, timeout=15) as client:
            status = client.call("status")
    except DaemonAbsent:
        return {"running": False, "version": "", "transports": []}
    rows = status.get("transports") or [] if isinstance(status, dict) else []
    names = [str(row.get("name")) for row in rows if isinstance(row, dict)]
    return {"running": True, "version": str(status.get("version", "")), "transports": names}


def table(hosts: Mapping[str, Mapping[str, Any] | None], machines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the table, columns aligned.

    :param hosts: by their names, as `collect` gives them, None for one that does not answer.
    :param machines: as ``cxl_topology_info`` returns them; none for hosts that are no virtual machines.
    """
    of_lab = {str(machine["name"]): f"{machine['state']} {machine.get('accel', '')}".strip() for machine in machines}
    names = list(dict.fromkeys([*hosts, *of_lab]))
    rows = [list(_COLUMNS), *([name, of_lab.get(name, "-"), *_cells(hosts.get(name))] for name in names)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _cells(status: Mapping[str, Any] | None) -> list[str]:
    if not status:
        return [_UNKNOWN] * (len(_COLUMNS) - 2)
    daemon = status["daemon"]
    return [
        _duration(status["uptime_s"]),
        str(status["kernel"]),
        _shown(status["memdevs"], _memdevs),
        _shown(status["regions"], lambda rows: _list(f"{row['type']} {format_size(row['size'])}{_ways(row)}" for row in rows)),
        _shown(status["namespaces"], lambda rows: _list(f"{row['name'] or row['dev']} {row['mode']}" for row in rows)),
        _shown(status["dax"], lambda rows: _list(f"{row['name']} {row['mode']}{_online(row)}" for row in rows)),
        _UNKNOWN if daemon is None else (daemon["version"] if daemon["running"] else "-"),
        _UNKNOWN if daemon is None else _list(daemon["transports"]),
    ]


def _shown(rows: Any, show: Callable[[Sequence[Mapping[str, Any]]], str]) -> str:
    return _UNKNOWN if rows is None else show(rows)


def _memdevs(rows: Sequence[Mapping[str, Any]]) -> str:
    lost = sum(not row["enabled"] for row in rows)
    whole = sum(row["pmem_size"] + row["ram_size"] for row in rows)
    size = f" {format_size(whole)}" if whole else ""
    return f"{len(rows)}{size}" + (f", {lost} not accepted" if lost else "")


def _ways(region: Mapping[str, Any]) -> str:
    ways = f" x{len(region['memdevs'])}" if len(region["memdevs"]) > 1 else ""
    return ways if region["committed"] and region["enabled"] else f"{ways} (disabled)"


def _online(device: Mapping[str, Any]) -> str:
    return f" {device['online']}" if device["online"] else ""


def _list(parts: Any) -> str:
    return ", ".join(parts) or "-"


def _duration(seconds: int) -> str:
    hours, minutes = seconds // 3600, seconds // 60 % 60
    return f"{hours // 24}d {hours % 24}h" if hours >= 24 else f"{hours}h {minutes:02}m"
