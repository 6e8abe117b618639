# SPDX-License-Identifier: GPL-3.0-or-later
"""Loads on block devices by fio, in turns, so that whatever else the host does meets all devices alike.

A device is a block device or an NBD URI; fio's nbd engine is a user-space client. Each device is written once from end to end
before it is measured, for memory that nobody wrote is answered without being read.
"""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Sequence

from . import nbd
from .block_device import mount_points, read_signature
from .errors import LabError, shown
from .names import check_name
from .progress import progress
from .runner import Runner, must
from .sizes import parse_size

_PATH = re.compile(r"/dev/[\w.-]+", re.ASCII)
_TCP = re.compile(r"nbd://[\w.-]+:\d{1,5}", re.ASCII)
_STREAM = 1 << 16  # from here on one block after the other, below at random places
_MAX_BLOCK = 16 << 20
_MAX_DEPTH = 1024
_MAX_SECONDS = 3600
#: Seconds for a start, and bytes in each second at the worst.
_START, _RATE = 120, 1 << 20
_NEXT = "look at dmesg of the host, and whether the device answers"


@dataclass(frozen=True)
class Load:
    """``op`` is read or write; ``block`` bytes a request, ``depth`` requests in flight."""

    name: str
    op: str
    block: int
    depth: int


def parse_load(data: Mapping[str, Any]) -> Load:
    """A load as a user writes it.

    :raises LabError: when it is none.
    """
    name = data["name"]
    subject = f"load {shown(name)}"
    block = parse_size(data["block"], f"{subject}: block")
    if not (isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9_]{0,31}", name)):
        raise LabError(subject, "is no name", 'use letters, digits and "_", at most 32')
    if block % 512 or block > _MAX_BLOCK:
        raise LabError(subject, f"{shown(data['block'])} is no size of a block", "use a multiple of 512 up to 16M")
    if not 1 <= data["depth"] <= _MAX_DEPTH:
        raise LabError(subject, f"{data['depth']} is no depth", f"use 1 to {_MAX_DEPTH}")
    return Load(name, data["op"], block, data["depth"])


def check_seconds(seconds: float) -> float:
    """:raises LabError: when a run can not take so long."""
    if not 0 < seconds <= _MAX_SECONDS:
        raise LabError("seconds", f"{seconds:g} is no duration of a run", f"use more than 0 and at most {_MAX_SECONDS}")
    return seconds


def check_device(runner: Runner, device: str) -> None:
    """Sees that nobody misses what is on the device.

    :raises LabError: when it is none, is mounted, or carries something.
    """
    if _TCP.fullmatch(device) or nbd.is_uri(device):
        if not _TCP.fullmatch(device):
            nbd.socket_path(device)
        return
    if not _PATH.fullmatch(device):
        raise LabError("device", f"{shown(device)} is no block device and no NBD URI", "write /dev/cbd1, or the URI of cbd_info")
    if mounts := mount_points(device):
        raise LabError(device, f"is mounted at {', '.join(mounts)}", "measure a device that nobody uses")
    if signature := read_signature(runner, device):
        raise LabError(device, f"carries {signature.type}", f"measure another one, or wipe it yourself: wipefs -a {device}")


def check_devices(runner: Runner, devices: Mapping[str, str]) -> None:
    """``check_device`` for devices by name.

    :raises LabError: names the first that cannot be measured.
    """
    for name, device in devices.items():
        check_name(name, "name of a device")
        check_device(runner, device)


def command(load: Load, device: str, seconds: float) -> list[str]:
    """One run of fio; with 0 seconds once over all of the device."""
    kind = load.op if load.block >= _STREAM else f"rand{load.op}"
    target = ["--ioengine=libaio", "--direct=1", f"--filename={device}"]
    if nbd.is_uri(device):
        target = ["--ioengine=nbd", f"--uri={device}"]  # the engine brings its option along
    duration = [f"--runtime={seconds:g}", "--time_based"] if seconds else []
    size = [f"--bs={load.block}", f"--iodepth={load.depth}"]
    return ["fio", "--name=cxl-bench", f"--rw={kind}", *size, *target, *duration, "--output-format=json"]


def parse_result(text: str, op: str, device: str) -> dict[str, float]:
    """``iops`` and ``p99_us`` (of the latency) of one run. Engines print lines of their own before the JSON.

    :raises LabError: when fio did not do a single request, or met errors.
    """
    try:
        (job,) = json.loads(text[text.index("{") :])["jobs"]
        done, errors = job[op], job["error"]
        iops, requests = float(done["iops"]), int(done["total_ios"])
        p99_us = float(done["clat_ns"]["percentile"]["99.000000"]) / 1000 if requests else 0.0
    except (ValueError, KeyError, TypeError) as bad:
        raise LabError(device, f"fio printed no result: {text[:200]!r}", _NEXT) from bad
    if errors or not (requests and iops > 0 and p99_us > 0):
        raise LabError(device, f"fio did {requests} requests, with error {errors}", _NEXT)
    return {"iops": iops, "p99_us": p99_us}


def fill(runner: Runner, device: str, size: int) -> None:
    """Writes all ``size`` bytes of the device."""
    progress(f"filling {device}")
    must(runner, command(Load("fill", "write", 1 << 20, 4), device, 0), device, _NEXT, timeout=_START + size / _RATE)


def take_turns(
    runner: Runner, devices: Mapping[str, str], loads: Sequence[Load], runs: int, seconds: float
) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Every load on every device, ``runs`` times over.

    :param devices: block devices or NBD URIs by name.
    :returns: by load and device name, a list with ``iops`` and ``p99_us`` of each run.
    """
    taken: dict[str, dict[str, list[dict[str, float]]]] = {load.name: {name: [] for name in devices} for load in loads}
    for number in range(runs):
        for load in loads:
            for name, device in devices.items():
                progress(f"round {number + 1} of {runs}: {load.name} on {name}")
                text = must(runner, command(load, device, seconds), device, _NEXT, timeout=_START + seconds)
                taken[load.name][name].append(parse_result(text, load.op, device))
    return taken


def facts(runner: Runner, processor: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Where figures of this host come from; the name of the processor tells whether it is emulated."""
    model = re.search(r"^model name\s*:\s*(.+)$", processor.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return {
        "cpu": model.group(1).strip() if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "fio": must(runner, ["fio", "--version"], "fio").strip().removeprefix("fio-"),
    }
