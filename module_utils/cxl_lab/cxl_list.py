# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``cxl list`` says about memdevs, root decoders and regions, as checked records.

Source: the JSON of cxl-cli 81 (``cxl list``; the keys are those of its manual page). Sizes are bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Iterable

from .errors import LabError
from .runner import Runner, must_json

_MEMDEV = re.compile(r"mem\d{1,9}")
_DECODER = re.compile(r"decoder\d{1,9}\.\d{1,9}")
_REGION = re.compile(r"region\d{1,9}")
_SERIAL = re.compile(r"0x[0-9a-f]{1,16}|[0-9]{1,20}", re.IGNORECASE)


@dataclass(frozen=True)
class Memdev:
    """A memory device; ``enabled`` means that the kernel accepted it as part of the CXL hierarchy."""

    name: str
    serial: int
    pmem_size: int
    ram_size: int
    host: str
    enabled: bool


@dataclass(frozen=True)
class RootDecoder:
    """A fixed memory window; ``max_available_extent`` is the largest region that still fits into it.

    :param ways: how many host bridges it interleaves over, every ``granularity`` bytes.
    :param targets: those bridges as PCI roots ("pci0000:40") in interleave order; empty where they were not asked for.
    """

    name: str
    resource: int
    size: int
    max_available_extent: int
    pmem_capable: bool
    volatile_capable: bool
    ways: int = 1
    granularity: int = 0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Region:
    """A region and the memdevs under it, by name and in interleave order, with the decoder of each."""

    name: str
    type: str
    resource: int
    size: int
    committed: bool
    enabled: bool
    memdevs: tuple[str, ...]
    granularity: int = 0
    decoders: tuple[str, ...] = ()


def parse_serial(value: object) -> int:
    """The number of "0xc0de0001", "3235774465" or 3235774465.

    :raises LabError: when it is no 64-bit number.
    """
    if isinstance(value, (int, str)) and not isinstance(value, bool) and _SERIAL.fullmatch(str(value).strip()):
        text = str(value).strip().lower()
        serial = int(text, 16 if text.startswith("0x") else 10)
        if serial < 1 << 64:
            return serial
    raise LabError("serial", f"{value!r} is no serial number of a memdev", 'write it as "0xc0de0001"; `cxl list -M -u` shows it')


def parse_serials(values: Iterable[object]) -> tuple[int, ...]:
    """The numbers of the memdevs below a region, in their order.

    :raises LabError: when one is none, or is named twice, or when there are none: a region of no memdev is that of other memory.
    """
    serials = tuple(map(parse_serial, values))
    if not serials or len(set(serials)) < len(serials):
        problem = "a memdev is named twice" if serials else "no memdev is named"
        raise LabError("serial", problem, "name each memdev below the region once")
    return serials


def format_serial(serial: int) -> str:
    """The form that ``cxl list -u`` prints: 0xc0de0001."""
    return f"{serial:#x}"


def parse_memdevs(rows: object) -> list[Memdev]:
    """The records of ``cxl list -M -i``."""
    return [
        Memdev(
            name=_name(row, "memdev", _MEMDEV),
            serial=_number(row, "serial"),
            pmem_size=_number(row, "pmem_size"),
            ram_size=_number(row, "ram_size"),
            host=str(row.get("host", "")),
            enabled=row.get("state") != "disabled",
        )
        for row in _rows(rows, "cxl list -M")
    ]


def parse_root_decoders(rows: object) -> list[RootDecoder]:
    """The records of ``cxl list -D -d root``."""
    return [
        RootDecoder(
            name=_name(row, "decoder", _DECODER),
            resource=_number(row, "resource"),
            size=_number(row, "size"),
            max_available_extent=_number(row, "max_available_extent"),
            pmem_capable=row.get("pmem_capable") is True,
            volatile_capable=row.get("volatile_capable") is True,
            ways=max(1, _number(row, "interleave_ways")),
            granularity=_number(row, "interleave_granularity"),
            targets=tuple(_target_roots(row)),
        )
        for row in _rows(rows, "cxl list -D")
    ]


def parse_regions(rows: object) -> list[Region]:
    """The records of ``cxl list -R -T -i``."""
    return [
        Region(
            name=_name(row, "region", _REGION),
            type=str(row.get("type", "")),
            resource=_number(row, "resource"),
            size=_number(row, "size"),
            committed=row.get("decode_state") == "commit",
            enabled=row.get("state") != "disabled",
            memdevs=tuple(_targets(row)),
            granularity=_number(row, "interleave_granularity"),
            decoders=tuple(_decoder(mapping) for mapping in _mappings(row)),
        )
        for row in _rows(rows, "cxl list -R")
    ]


def list_memdevs(runner: Runner) -> list[Memdev]:
    """All memdevs, also those that the kernel did not accept."""
    return parse_memdevs(must_json(runner, ["cxl", "list", "-M", "-i"], "memdevs"))


def list_root_decoders(runner: Runner, above: Memdev | None = None) -> list[RootDecoder]:
    """The root decoders with their targets; only those whose host bridges lead to the memdev ``above`` when one is given."""
    argv = ["cxl", "list", "-D", "-d", "root", "-T"]
    decoders = parse_root_decoders(must_json(runner, argv, "root decoders"))
    if above is None:
        return decoders
    # The filter leaves out the targets that do not lead there, too.
    leading = {one.name for one in parse_root_decoders(must_json(runner, [*argv, "-m", above.name], "root decoders"))}
    return [one for one in decoders if one.name in leading]


def list_regions(runner: Runner) -> list[Region]:
    """All regions, also those that are not enabled."""
    return parse_regions(must_json(runner, ["cxl", "list", "-R", "-T", "-i"], "regions"))


def show_memdev(runner: Runner, serial: int) -> dict[str, Any] | None:
    """A memdev with its health, as ``cxl list`` shows it; None where this host has none of this serial number any more."""
    argv = ["cxl", "list", "-M", "-i", "--health", "-s", str(serial)]
    rows = _rows(must_json(runner, argv, f"memdev {format_serial(serial)}"), "cxl list -M")
    return rows[0] if rows else None


def find_memdev(memdevs: Iterable[Memdev], serial: int) -> Memdev | None:
    """The memdev with this serial number.

    :raises LabError: when several claim it, because then nobody can tell which memory is meant.
    """
    found = [memdev for memdev in memdevs if memdev.serial == serial]
    if len(found) > 1:
        names = ", ".join(memdev.name for memdev in found)
        raise LabError(f"memdev {format_serial(serial)}", f"{names} carry the same serial number", "give each memdev its own")
    return found[0] if found else None


def _rows(rows: object, source: str) -> list[dict[str, Any]]:
    if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        return rows
    raise LabError(source, "printed no list of objects", "check that cxl-cli is version 81 or newer", observed=rows)


def _name(row: dict[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    name = row.get(key)
    if isinstance(name, str) and pattern.fullmatch(name):
        return name
    raise LabError("cxl list", f"{name!r} is no name of a {key}", "check that cxl-cli is version 81 or newer", observed=row)


def _number(row: dict[str, Any], key: str) -> int:
    number = row.get(key, 0)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 64:
        return number
    raise LabError("cxl list", f"{key} is {number!r}, which is no size or number", observed=row)


def _targets(row: dict[str, Any]) -> list[str]:
    return [_name(mapping, "memdev", _MEMDEV) for mapping in _mappings(row)]


def _decoder(mapping: dict[str, Any]) -> str:
    """ "" while a memdev takes no part yet."""
    return _name(mapping, "decoder", _DECODER) if "decoder" in mapping else ""


def _mappings(row: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted(_rows(row.get("mappings", []), "cxl list -R"), key=lambda mapping: _number(mapping, "position"))


def _target_roots(row: dict[str, Any]) -> list[str]:
    targets = sorted(_rows(row.get("targets", []), "cxl list -D"), key=lambda target: _number(target, "position"))
    return [_pci_root(target) for target in targets]


def _pci_root(target: dict[str, Any]) -> str:
    """The name of a host bridge that memdev paths begin with. Kernels differ in which of its two names comes as the alias."""
    names = (str(target.get(key, "")) for key in ("target", "alias"))
    return next((name for name in names if name.startswith("pci")), "")
