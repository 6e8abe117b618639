# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor over real processes that behave as no worker should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hosts import PATIENCE_S

from cxl_datapath import supervisor
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.supervisor import Supervised

Make = Callable[[str], Supervised]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a supervised worker that is a shell script; it runs once its configuration was read."""

    def make(script: str) -> Supervised:
        program = tmp_path / "worker"
        program.write_text(f"#!/bin/sh\nread config\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(supervisor, "sys", SimpleNamespace(executable=str(program)))

        async def configure() -> dict[str, object]:
            return {}

        return Supervised("backend", "worker 0", configure, lambda: None)

    return make


def test_a_start_ends_when_the_worker_is_ended_from_elsewhere(worker):
    async def scenario() -> None:
        mute = worker("exec sleep 3600")
        starting = asyncio.create_task(mute.start())
        while mute.to_json()["pid"] is None:
            await asyncio.sleep(0.01)
        await mute.end(patience=0.0)
        with pytest.raises(DatapathError) as caught:
            await asyncio.wait_for(starting, PATIENCE_S)
        assert (caught.value.code, caught.value.object) == (Code.NOT_READY, "worker 0")

    asyncio.run(scenario())


def test_a_stop_ends_when_the_worker_dies_of_it(worker, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_S", 3600.0)

    async def scenario() -> None:
        dying = worker("""echo '{"event": "ready", "info": {}}'; read command; kill -KILL $$""")
        await dying.start()
        await asyncio.wait_for(dying.stop(), PATIENCE_S)
        assert dying.to_json()["state"] == "stopped"

    asyncio.run(scenario())


def test_a_worker_whose_memory_went_away_says_so(worker):
    async def scenario() -> None:
        gone = worker("kill -BUS $$")
        with pytest.raises(DatapathError) as caught:
            await asyncio.wait_for(gone.start(), PATIENCE_S)
        await gone.end(patience=0.0)
        assert "signal 7 (SIGBUS)" in caught.value.message
        assert "cut short" in caught.value.hint

    asyncio.run(scenario())
