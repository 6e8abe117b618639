# SPDX-License-Identifier: GPL-3.0-or-later
"""The supervisor over real processes that behave as no worker should."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hosts import PATIENCE_S

from cxl_datapath import supervisor
from cxl_datapath.errors import Code, DatapathError, about
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


@pytest.mark.parametrize(("script", "words"), [("exec sleep 3600", 0), ("trap 'kill $!; exit 7' TERM; sleep 3600 & wait", 1)])
def test_an_end_that_was_asked_for_is_no_failure_and_promises_no_next_try(worker, caplog, script, words):
    """The first one has not come so far that it listens to the signal."""

    async def scenario() -> None:
        young = worker(f"touch {marker}; {script}")
        young.keep()
        async with asyncio.timeout(PATIENCE_S):
            while not marker.exists():
                await asyncio.sleep(0.01)
        await young.end(patience=PATIENCE_S)

    marker = Path(tempfile.mkdtemp(prefix="cxlt-")) / "up"
    asyncio.run(scenario())
    shutil.rmtree(marker.parent)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == words and not any("next try" in line for line in said), said


def test_a_stop_ends_when_the_worker_dies_of_it(worker, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_S", 3600.0)

    async def scenario() -> None:
        dying = worker("""echo '{"event": "ready", "info": {}}'; read command; kill -KILL $$""")
        await dying.start()
        await asyncio.wait_for(dying.stop(), PATIENCE_S)
        assert dying.to_json()["state"] == "stopped"

    asyncio.run(scenario())


def test_nobody_waits_for_a_worker_that_a_kill_does_not_end(worker, monkeypatch, caplog):
    """Its device hangs, and it waits for that in the kernel."""
    monkeypatch.setattr(supervisor, "KILL_S", 0.1)
    spawn = Supervised._spawn

    async def spawn_stuck(self: Supervised, inherit: tuple[int, ...]) -> asyncio.subprocess.Process:
        process = await spawn(self, inherit)
        killed.append((process, process.kill))
        monkeypatch.setattr(process, "terminate", lambda: None)
        monkeypatch.setattr(process, "kill", lambda: None)
        return process

    async def scenario() -> None:
        stuck = worker("""echo '{"event": "ready", "info": {}}'; exec sleep 3600""")
        await stuck.start()
        try:
            await asyncio.wait_for(stuck.end(patience=0.0), PATIENCE_S)
        finally:
            for process, kill in killed:
                kill()
                await process.wait()
        assert stuck.to_json()["state"] == "stopped"

    killed: list[tuple[asyncio.subprocess.Process, Callable[[], None]]] = []
    monkeypatch.setattr(Supervised, "_spawn", spawn_stuck)
    asyncio.run(scenario())
    assert any("does not answer" in record.getMessage() for record in caplog.records)


def test_a_worker_whose_memory_went_away_says_so(worker):
    async def scenario() -> None:
        gone = worker("kill -BUS $$")
        with pytest.raises(DatapathError) as caught:
            await asyncio.wait_for(gone.start(), PATIENCE_S)
        await gone.end(patience=0.0)
        assert "signal 7 (SIGBUS)" in caught.value.message
        assert "cut short" in caught.value.hint

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("backend 0: both copies were damaged", "transport pool0 backend 0: both copies were damaged"),
        ("transport pool0 backend 0: was ended", "transport pool0 backend 0: was ended"),
        ("/tmp/disk: is not there", "transport pool0 backend 0: /tmp/disk: is not there"),
        ("0: 1", "transport pool0 backend 0: 1"),
        ("end 0: no", "transport pool0 backend 0: end 0: no"),
        ("backend 0", "transport pool0 backend 0: backend 0"),
    ],
)
def test_a_line_of_the_log_names_its_object_once(said, line):
    assert about("transport pool0 backend 0", said) == line


def test_what_a_worker_says_and_how_it_ends_name_it_once(worker, caplog):
    async def scenario() -> None:
        speaking = worker("echo 'worker 0: a word' >&2; exit 7")
        with caplog.at_level(logging.INFO), pytest.raises(DatapathError):
            await asyncio.wait_for(speaking.start(), PATIENCE_S)
        await speaking.end(patience=0.0)

    asyncio.run(scenario())
    told = [record.getMessage() for record in caplog.records]
    assert "worker 0: a word" in told
    assert any(line.startswith("worker 0: ended with status 7") for line in told), told
