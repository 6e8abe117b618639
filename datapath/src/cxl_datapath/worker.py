# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker process: `python3 -m cxl_datapath.worker KIND`, started by the daemon only (see `workers.link`)."""

from __future__ import annotations

import sys
import traceback

from .errors import Code, DatapathError
from .workers.backend import run as run_backend
from .workers.blkdev import run as run_blkdev
from .workers.link import Link
from .workers.lun import run as run_lun
from .workers.pool import run as run_pool
from .workers.remove import run as run_remove
from .workers.volume import run as run_volume

KINDS = {
    "backend": run_backend,
    "blkdev": run_blkdev,
    "lun": run_lun,
    "pool": run_pool,
    "remove": run_remove,
    "volume": run_volume,
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in KINDS:
        print(f"usage: python3 -m cxl_datapath.worker {'|'.join(KINDS)}", file=sys.stderr)
        return 2
    link = Link()
    try:
        KINDS[arguments[0]](link)
    except DatapathError as error:
        link.emit("failed", error=error.to_json())
        return 1
    except Exception as error:
        # The supervisor shows the last line to the user and the log keeps all of it.
        traceback.print_exc()
        failed = DatapathError(Code.FAILED, f"{arguments[0]} worker", f"{type(error).__name__}: {error}")
        link.emit("failed", error=failed.to_json())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
