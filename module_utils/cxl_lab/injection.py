# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of a CXL device that QEMU plays on command: which command, which arguments, and what the host's kernel says to it. Pure.

Source: QEMU, qapi/cxl.json; the events are those of the kernel's drivers/cxl/core/trace.h, the records those of CXL 3.1, 8.2.9.2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from .errors import LabError
from .qmp_schema import QmpSchema

#: Of an event record: what it has where the user gives nothing. Bit 0 of the descriptor says uncorrectable, so that 2 (a
#: threshold event) is harmless.
_RECORD = {"log": "informational", "flags": 1, "sub-type": 0}
_MEDIA = {**_RECORD, "dpa": 0, "descriptor": 2, "type": 0, "transaction-type": 1}


@dataclass(frozen=True)
class Kind:
    """A kind of error.

    :param command: of QMP.
    :param defaults: arguments where the user gives none; those that the QEMU does not know are left out.
    :param events: trace events of which the host's kernel shows one or more.
    """

    command: str
    defaults: Mapping[str, Any]
    events: tuple[str, ...]


#: What a device tells its host by Advanced Error Reporting.
BY_AER = ("correctable", "uncorrectable")

KINDS: Mapping[str, Kind] = {
    "poison": Kind("cxl-inject-poison", {"start": 0, "length": 64}, ("cxl_poison",)),
    "correctable": Kind("cxl-inject-correctable-error", {"type": "mem-data-ecc"}, ("cxl_aer_correctable_error",)),
    "uncorrectable": Kind(
        "cxl-inject-uncorrectable-errors",
        {"errors": [{"type": "mem-data-ecc", "header": list(range(32))}]},
        ("cxl_aer_uncorrectable_error",),
    ),
    "general_media": Kind("cxl-inject-general-media-event", _MEDIA, ("cxl_general_media",)),
    "dram": Kind("cxl-inject-dram-event", _MEDIA, ("cxl_dram",)),
    "memory_module": Kind(
        "cxl-inject-memory-module-event",
        {
            **_RECORD,
            **{"type": 0, "health-status": 0, "media-status": 0, "additional-status": 0, "life-used": 1, "temperature": 30},
            **{
                "dirty-shutdown-count": 0,
                "corrected-volatile-error-count": 0,
                "corrected-persistent-error-count": 0,
            },
        },
        ("cxl_memory_module",),
    ),
}

_LINE = re.compile(r"\s(?P<event>cxl_\w+|aer_event): (?P<text>.*)$")
_FIELD = re.compile(r"(\w+)=('[^']*'|[^\s:]\S*)")


def build(schema: QmpSchema, kind: str, device: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The QMP command and its arguments; those of the user take the place of the defaults, with "_" or "-" in their names.

    :param device: the name of the device in the topology.
    :raises LabError: with everything that this QEMU would not take.
    """
    command = KINDS[kind].command
    known = schema.takes(command)
    arguments = {key: value for key, value in KINDS[kind].defaults.items() if key in known}
    arguments.update({key.replace("_", "-"): value for key, value in given.items()})
    arguments["path"] = f"/machine/peripheral/cxl-dev.{device}"
    problems = schema.problems(command, arguments)
    if "path" in given:
        problems.append("path follows from the device")
    if kind == "poison" and not problems:
        problems += [f"{key} is {arguments[key]}, and no multiple of 64" for key in ("start", "length") if arguments[key] % 64]
    if problems:
        raise LabError(f"error {kind} on device {device}", "; ".join(problems), "correct arguments (cxl_error_info shows them)")
    return command, arguments


def describe(schema: QmpSchema) -> dict[str, dict[str, Any]]:
    """The kinds that this QEMU can play: the command, its arguments but for the path, and the defaults that it knows."""
    told = {}
    for name, kind in KINDS.items():
        if schema.has(kind.command):
            arguments = {key: entry for key, entry in schema.describe(kind.command).items() if key != "path"}
            defaults = {key: value for key, value in kind.defaults.items() if key in arguments}
            told[name] = {"command": kind.command, "arguments": arguments, "defaults": defaults}
    return told


def parse_trace(text: str) -> list[dict[str, Any]]:
    """The events about CXL in a kernel trace: ``event``, ``memdev`` (or ""), ``fields`` by name, and the whole ``text``."""
    events = []
    for line in text.splitlines():
        match = _LINE.search(line)
        if match and not line.startswith("#"):
            fields = {key: value.strip("'").rstrip(":") for key, value in _FIELD.findall(match["text"])}
            events.append({"event": match["event"], "memdev": fields.get("memdev", ""), "fields": fields, "text": match["text"]})
    return events


def about(events: Sequence[Mapping[str, Any]], kind: str, memdev: str) -> list[Mapping[str, Any]]:
    """Those that a kind of error leads to, on this memdev."""
    return [event for event in events if event["event"] in KINDS[kind].events and event["memdev"] == memdev]
