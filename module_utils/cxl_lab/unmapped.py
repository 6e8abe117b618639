# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the mappings of a memdev out of the record that `committed` keeps. Runs by itself on a host: it needs nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path


def forget(serial: int, file: Path = Path("/var/lib/cxl-lab/committed.json")) -> None:
    """Keeps all rows of the record but those of this memdev; a record that is not there or not readable stays as it is."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        record["mappings"] = [row for row in record["mappings"] if row["serial"] != serial]
    except (OSError, ValueError, KeyError, TypeError):
        return
    new = file.with_name(f".{file.name}.new")
    with new.open("w", encoding="utf-8") as out:
        out.write(json.dumps(record, indent=1) + "\n")
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
