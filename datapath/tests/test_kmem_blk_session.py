# SPDX-License-Identifier: GPL-3.0-or-later
"""What the daemon wants of a pool: which memories it goes on without, and which state it does not believe."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict
from pathlib import Path

import pytest

from cxl_datapath import pool_session
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk.volatile import SwapIndex
from cxl_datapath.memory import Memory
from cxl_datapath.pool_session import PoolSession
from cxl_datapath.pool_state import PoolState
from cxl_datapath.session import Settings

FIRST, FILE, EXTENT = "/dev/dax0.0", "/dev/shm/more", "dcd:0x91/more"


def session(tmp_path: Path, memories: list[str], missing: set[str]) -> PoolSession:
    async def memory(spec: str) -> Memory:
        if spec in missing:
            raise DatapathError(Code.NOT_READY, spec, "is not all accepted any more")
        return Memory(spec, spec, 1 << 20, "file")

    settings = Settings(runtime=tmp_path, state=tmp_path, host_name="node1")
    return PoolSession(PoolState("pool0", str(uuid.uuid4()), memories, 0, 0, None, 5000), settings, memory)


def configured(made: PoolSession) -> list[str]:
    return [each["spec"] for each in asyncio.run(made._configure())["memories"]]


def test_blocks_do_not_wait_for_ever_for_volatile_memory(tmp_path, monkeypatch):
    missing = {EXTENT}
    made = session(tmp_path, [FIRST, EXTENT], missing)
    with pytest.raises(DatapathError):
        configured(made)
    monkeypatch.setattr(pool_session, "VOLATILE_PATIENCE_S", 0.0)
    assert configured(made) == [FIRST]
    missing.clear()
    assert configured(made) == [FIRST, EXTENT]


@pytest.mark.parametrize("gone", [FIRST, FILE])
def test_no_pool_goes_on_without_memory_that_may_hold_blocks(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(pool_session, "VOLATILE_PATIENCE_S", 0.0)
    with pytest.raises(DatapathError):
        configured(session(tmp_path, [FIRST, FILE, EXTENT], {gone}))


def test_swap_of_this_boot_waits_for_its_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_session, "VOLATILE_PATIENCE_S", 0.0)
    made = session(tmp_path, [FIRST, EXTENT], {EXTENT})
    index = SwapIndex.make(tmp_path, "pool0", uuid.uuid4(), 64)
    with pytest.raises(DatapathError):
        configured(made)
    index.remove()
    assert configured(made) == [FIRST]


def test_a_memory_is_in_a_pool_once():
    state = asdict(PoolState("pool0", "u-1", [FIRST, FILE], 0, 0, None, 5000))
    assert PoolState.from_json(state).memories == [FIRST, FILE]
    with pytest.raises(ValueError, match="twice"):
        PoolState.from_json({**state, "memories": [FIRST, FIRST]})
