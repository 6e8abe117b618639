# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever is in state.json: what is loaded is in range, everything else is refused with the file's name."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from strategies import as_bytes, json_values, nearly

from cxl_datapath.cbd.geometry import ENTRIES_MAX
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.frontends import CHOICES
from cxl_datapath.state import StateFile

_FILE = {"inode": 12, "device": 2049, "boot": "b0" * 16, "generation": 7}
_LOOP = {"marks": {"serial": "x"}, "below": _FILE, "start": 512, "size": 4096, "device": 1793, "sequence": 3, "boot": "b0" * 16}
_BLKDEV = {"id": 1, "backend": 2, "queues": 4, "frontend": "auto", "name": "cbd1", "read_only": False, "shared": True}
GOOD: dict[str, Any] = {
    "version": 2,
    "transports": [
        {
            "memory": "serial:0xa1",
            "name": "pool0",
            "uuid": "12345678-0000-0000-0000-000000000000",
            "backends": [
                {"id": 0, "path": "/dev/sdb", "read_only": False},
                {"id": 3, "path": "/srv/disk", "read_only": True, "life": 4, "file": _LOOP},
            ],
            "blkdevs": [_BLKDEV | {"io_timeout": 30, "backend_life": 7}],
        },
        {"memory": "/dev/dax1.0", "name": "pool1", "uuid": "2", "backends": [], "blkdevs": [], "seat": {"id": 2, "epoch": 5}},
    ],
}


def with_blkdev(**changes: Any) -> bytes:
    transport = GOOD["transports"][0]
    return as_bytes(GOOD | {"transports": [transport | {"blkdevs": [transport["blkdevs"][0] | changes]}]})


@given(st.one_of(nearly(GOOD).map(as_bytes), json_values.map(as_bytes), st.binary(max_size=200)))
@example(as_bytes(GOOD))
@example(with_blkdev(queues=0))
@example(with_blkdev(queues=17))
@example(with_blkdev(io_timeout=0))
@example(with_blkdev(frontend="iscsi"))
@example(with_blkdev(id=ENTRIES_MAX))
@example(b"[" * 100_000)
@example(b'{"version": ' + b"9" * 5000 + b"}")
def test_what_is_loaded_is_in_range(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = StateFile(Path(folder))
        file.path.write_bytes(raw)
        try:
            found = file.load()
        except DatapathError as error:
            assert (error.code, error.object) == (Code.CORRUPT, str(file.path))
            return
        for transport in found:
            assert transport.seat is None or 0 <= transport.seat.id < ENTRIES_MAX
            for backend in transport.backends:
                assert 0 <= backend.id < ENTRIES_MAX
            for blkdev in transport.blkdevs:
                assert 0 <= blkdev.id < ENTRIES_MAX
                assert 0 <= blkdev.backend < ENTRIES_MAX
                assert 1 <= blkdev.queues <= 16
                assert 1 <= blkdev.io_timeout <= 86400
                assert blkdev.frontend in CHOICES
        file.save(found)
        assert file.load() == found
