# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the CXL regions again that this host had before it was started anew: Linux forgets a region when it ends.

A program of its own: the module cxl_region puts it on the host, and systemd runs it once at each boot. Each record in the folder
says which region to make: {"serial", "decoder", "type", "size", "uuid"}; sizes are bytes, and an empty
decoder or uuid is left to cxl.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RECORDS = Path("/etc/cxl-lab/regions.d")
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


def make(record: dict[str, Any], patience_s: float) -> str:
    """Makes one region, unless something lies over its memdev already; returns what went wrong, "" if nothing did."""
    name = memdev_name(record["serial"], patience_s)
    if not name:
        return "the memdev is not there"
    if listed("-R", "-i", "-m", name):
        return ""
    command = ["cxl", "create-region", "-t", record["type"], "-s", str(record["size"])]
    for option, key in (("-d", "decoder"), ("-U", "uuid")):
        command += [option, record[key]] if record[key] else []
    return "" if subprocess.run([*command, "-m", name], check=False).returncode == 0 else "cxl create-region failed"


def main(folder: Path = RECORDS, patience_s: float = PATIENCE_S) -> int:
    """Exit code 1 when a region could not be made; the others are made all the same."""
    failed = 0
    for file in sorted(folder.glob("*.json")):
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
