# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the CXL regions again that this host had before it was started anew: Linux forgets a region when it ends.

A program of its own: the module cxl_region puts it on the host, and systemd runs it once at each boot. Each record in the folder
says which region to make: {"serials", "decoder", "type", "size", "uuid", "granularity", "resource"}. The serial numbers are in
interleave order, sizes are bytes, and an empty decoder or uuid is left to cxl. The resource is the address where the region was,
as text.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RECORDS = Path("/etc/cxl-lab/regions.d")
#: What the kernel does with new volatile memory; another host may use the same.
ONLINE_POLICY = Path("/sys/devices/system/memory/auto_online_blocks")
PATIENCE_S = 60.0


def listed(*options: str) -> list[dict[str, Any]]:
    """The objects that ``cxl list`` names; it prints nothing where there are none."""
    done = subprocess.run(["cxl", "list", *options], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else []


def memdev_name(serial: int, patience_s: float) -> str:
    """The memdev with this serial number, "" when it did not come in time. Its driver may still be at work at boot."""
    end = time.monotonic() + patience_s
    while True:
        names = [str(memdev["memdev"]) for memdev in listed("-M") if memdev.get("serial") == serial]
        if names or time.monotonic() >= end:
            return names[0] if names else ""
        time.sleep(0.5)


def covers(region: dict[str, Any], kind: str, names: list[str]) -> bool:
    """Whether it takes memory of that type from one of the memdevs. ``cxl list -R -m`` does not tell: it names what lies below
    the same host bridge, too."""
    return region["type"] == kind and any(mapping["memdev"] in names for mapping in region.get("mappings", []))


def make(record: dict[str, Any], patience_s: float) -> str:
    """Makes one region, unless one of its type lies over its memdevs already; returns what went wrong, "" if nothing did."""
    names = [memdev_name(serial, patience_s) for serial in record["serials"]]
    if not all(names):
        return "the memdev is not there"
    if any(covers(region, record["type"], names) for region in listed("-R", "-T", "-i")):
        return ""
    command = ["cxl", "create-region", "-t", record["type"], "-s", str(record["size"])]
    command += ["-w", str(len(names)), "-g", str(record["granularity"])] if len(names) > 1 else []
    for option, key in (("-d", "decoder"), ("-U", "uuid")):
        command += [option, record[key]] if record[key] else []
    if record["type"] == "ram":
        ONLINE_POLICY.write_text("offline", encoding="ascii")
    return "" if subprocess.run([*command, "-m", *names], check=False).returncode == 0 else "cxl create-region failed"


def turn(file: Path) -> tuple[int, bool, str]:
    """When it is the record's turn. Linux fills the decoders of bridges, switches and devices by ascending address, and hands the
    memory of a device out from its beginning, where the volatile part is."""
    try:
        address = int(json.loads(file.read_text(encoding="utf-8"))["resource"], 16)
    except (OSError, ValueError, KeyError, TypeError):
        address = 0  # from before addresses were kept, or a record that make() has to complain about
    return address, not file.name.endswith(".ram.json"), file.name


def main(folder: Path = RECORDS, patience_s: float = PATIENCE_S) -> int:
    """Exit code 1 when a region could not be made; the others are made all the same."""
    failed = 0
    for file in sorted(folder.glob("*.json"), key=turn):
        try:
            problem = make(json.loads(file.read_text(encoding="utf-8")), patience_s)
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            failed = 1
            print(f"{file}: {problem}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
