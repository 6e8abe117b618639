# SPDX-License-Identifier: GPL-3.0-or-later
"""A file system that answers nothing costs whoever asks for it an error, and nobody else anything: the daemon goes on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import DISK, MEMORY, Lab, alive
from mishaps import disk_that_hangs, silent_server

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.places import same_as
from cxl_datapath.saver import Saver
from cxl_datapath.state import StateFile, TransportState
from cxl_datapath.waits import in_time

pytestmark = pytest.mark.slow

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
T = {"transport": "pool0"}


@contextmanager
def watched(lab: Lab) -> Iterator[set[object]]:
    """What node2 thinks of node1's life meanwhile."""
    seen: set[object] = set()
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            seen.add(alive(lab.node2, "node1"))

    with ThreadPoolExecutor() as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            ended.set()
            watching.result()


@needs_root
def test_a_path_that_hangs_is_the_trouble_of_who_asks_for_it(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    first, second = folder / "first", lab.disk("second")
    first.touch()
    os.truncate(first, DISK)
    lab.node1.call("cbd.backend.start", **T, path=str(first))
    wait_until(lambda: alive(lab.node2, "node1") is True, "node2 sees node1")
    with watched(lab) as seen, silent_server(folder):
        for method, params in (
            ("cbd.backend.start", T | {"path": str(folder / "other")}),
            ("cbd.transport.probe", {"memory": str(folder / "memory")}),
            ("cbd.transport.register", {"memory": str(folder / "memory")}),
            ("lun.create", {"path": str(folder / "other"), "name": "lun0"}),
        ):
            error = lab.node1.refuse(Code.TIMEOUT, method, **params)
            assert error.object.startswith(str(folder)) and "did not answer" in error.message
        # Beside one that hangs others are started, and nothing that needs no disk waits.
        assert lab.node1.call("cbd.backend.start", **T, path=str(second))["state"] == "running"
        assert [row["state"] for row in lab.node1.call("cbd.backend.list", **T)] == ["running", "running"]
        lab.node1.call("cbd.backend.stop", **T, id=1)
    assert seen == {True}
    lab.node1.call("cbd.backend.stop", **T, id=0)


@needs_root
def test_a_memory_whose_file_system_hangs_does_not_stop_the_heart(
    tmp_path: Path, make_host: Callable[..., Host], shared_file: Callable[[int], Path]
) -> None:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "memory").touch()
    os.truncate(folder / "memory", MEMORY)
    lab = Lab(folder / "memory", tmp_path, make_host)
    wait_until(lambda: alive(lab.node2, "node1") is True, "node2 sees node1")
    with silent_server(folder):
        beats = {row["beat"] for row in lab.node2.call("cbd.host.list", **T)}
        wait_until(lambda: not beats & {row["beat"] for row in lab.node2.call("cbd.host.list", **T)}, "both beat")
        # A look each second: the first one hangs, and is the only one.
        wait_until(lambda: len(list(Path(f"/proc/{lab.node1.pid}/task").iterdir())) >= 2, "it looks")
        beats = {row["beat"] for row in lab.node2.call("cbd.host.list", **T)}
        wait_until(lambda: not beats & {row["beat"] for row in lab.node2.call("cbd.host.list", **T)}, "both beat on")


@needs_root
def test_a_state_folder_that_hangs_costs_the_change_and_not_the_lease(
    lab: Lab, tmp_path: Path, make_host: Callable[..., Host]
) -> None:
    host = make_host("node3", start=False)
    with disk_that_hangs(tmp_path / "hangs") as hanging:
        host.state.symlink_to(tmp_path / "hangs")
        host.start()
        host.call("cbd.transport.register", memory=lab.memory)
        wait_until(lambda: alive(lab.node2, "node3") is True, "node2 sees node3")
        saved = (host.state / "state.json").read_text()
        with hanging():
            error = host.refuse(Code.TIMEOUT, "cbd.backend.start", **T, path=str(lab.disk()))
            assert error.object.endswith("state.json")
            assert alive(lab.node2, "node3") is True
            assert host.call("cbd.backend.list", **T) == []
        # The late write has what was given up; another one follows it.
        wait_until(lambda: (host.state / "state.json").read_text() == saved, "what is wanted is written once more")
        assert host.call("cbd.backend.start", **T, path=str(lab.disk()))["state"] == "running"
        host.stop()


def test_what_is_late_is_written_again_as_it_is_wanted_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, held, begun = StateFile(tmp_path), threading.Event(), threading.Event()
    wanted = [TransportState("/dev/dax0.0", "pool0", "uuid0")]
    fsync = os.fsync

    def slow(fd: int) -> None:
        begun.set()
        held.wait()
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)

    async def scenario() -> None:
        saver = Saver(file, lambda: wanted, patience=0.05)
        with pytest.raises(DatapathError) as caught:
            await saver.save()
        assert caught.value.code == Code.TIMEOUT and begun.is_set()
        wanted[0] = TransportState("/dev/dax0.0", "pool1", "uuid1")
        with pytest.raises(DatapathError):  # it waits for the first one
            await saver.save()
        wanted[0] = TransportState("/dev/dax0.0", "pool2", "uuid2")
        held.set()
        while not file.path.exists() or [each.name for each in file.load()] != ["pool2"]:
            await asyncio.sleep(0.01)
        await Saver(file, lambda: wanted).save()

    asyncio.run(scenario())
    assert [each.name for each in file.load()] == ["pool2"]


def test_what_does_not_answer_is_named() -> None:
    ended = threading.Event()

    async def scenario() -> None:
        with pytest.raises(DatapathError) as caught:
            await in_time(ended.wait, "/srv/disk", 0.05)
        assert (caught.value.code, caught.value.object) == (Code.TIMEOUT, "/srv/disk")

    asyncio.run(scenario())
    ended.set()


def test_paths_of_one_file(tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    for path in (file, other):
        path.touch()
    (tmp_path / "soft").symlink_to(file)
    (tmp_path / "hard").hardlink_to(file)
    names = [str(tmp_path / name) for name in ("file", "soft", "hard", "other", "missing")]
    assert asyncio.run(same_as(str(file), names)) == set(names[:3])
    assert asyncio.run(same_as(names[4], names)) == {names[4]}
