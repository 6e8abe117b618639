# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of a transport that is not there yet, or not any more, or only still, and of what it has in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, wait_until
from lab import LEASE_MS, needs_nbd, was_looked_for

from cxl_datapath.errors import Code
from cxl_datapath.file_id import why_not_at

SIZE = 1 << 20
T = {"transport": "pool0"}
GEOMETRY = {"hosts": 2, "backends": 2, "blkdevs": 1, "channels": 1, "ring_depth": 2, "slot_bytes": 4096}


class Alone:
    """A host with a backend in a transport of its own."""

    def __init__(self, host: Host, memory: Path, disk: Path, lease_ms: int) -> None:
        self.host, self.memory, self.disk = host, memory, disk
        host.call("cbd.transport.format", memory=str(memory), name="pool0", lease_ms=lease_ms, **GEOMETRY)
        host.call("cbd.transport.register", memory=str(memory))
        disk.touch()
        os.truncate(disk, SIZE)
        host.call("cbd.backend.start", **T, path=str(disk))

    def transport(self) -> dict[str, Any]:
        (row,) = self.host.call("cbd.transport.list")
        return dict(row)

    def reason(self) -> str:
        """What was found, once it was looked for."""
        found = self.transport()
        return str(found["reason"]["message"]) if was_looked_for(found) else ""

    def lose(self) -> None:
        """Another memory is there when the host starts again."""
        self.host.stop()
        self.memory.unlink()
        self.memory.touch()
        os.truncate(self.memory, SIZE)
        self.host.start()
        assert "the transport was lost" in wait_until(self.reason, "it says what it found")


@pytest.fixture
def make_alone(make_host: Callable[..., Host], shared_file: Callable[[int], Path], tmp_path: Path) -> Callable[[int], Alone]:
    return lambda lease_ms: Alone(make_host("node1"), shared_file(SIZE), tmp_path / "disk", lease_ms)


@pytest.fixture
def alone(make_alone: Callable[[int], Alone]) -> Alone:
    return make_alone(LEASE_MS)


# ---- lost


@pytest.mark.parametrize(("noun", "given"), [("backend", 1), ("backend", "/var/tmp/other"), ("blkdev", 0), ("blkdev", "other")])
def test_what_is_not_here_is_not_waited_for(alone: Alone, noun: str, given: int | str) -> None:
    alone.lose()
    error = alone.host.refuse(Code.NOT_FOUND, f"cbd.{noun}.stop", **T, id=given)
    assert error.object == f"{noun} {given}"
    assert error.message.startswith("is not here, and transport pool0 is not there any more (")
    assert "cxl-datapath cbd transport unregister pool0" in error.hint
    assert "keeps trying" not in str(error)


def test_what_needs_a_lost_transport_is_told_the_way_out(alone: Alone) -> None:
    alone.lose()
    error = alone.host.refuse(Code.NOT_READY, "cbd.backend.start", **T, path=str(alone.disk))
    assert "is not there any more" in error.message
    assert "cxl-datapath cbd transport unregister pool0" in error.hint


def test_what_is_not_here_while_the_memory_is_away_may_be_elsewhere(alone: Alone) -> None:
    alone.host.stop()
    hidden = alone.memory.rename(f"{alone.memory}.hidden")
    try:
        alone.host.start()
        wait_until(alone.reason, "it says what it found")
        error = alone.host.refuse(Code.NOT_FOUND, "cbd.backend.stop", **T, id=1)
    finally:
        hidden.rename(alone.memory)
    assert error.message.startswith("is not here, and transport pool0 is not reachable yet (")
    assert "keeps trying" in error.hint


def test_who_left_a_lost_transport_is_told_no_reason(alone: Alone) -> None:
    alone.lose()
    alone.host.call("cbd.backend.stop", **T, id=0)
    done = alone.host.cli("cbd", "transport", "unregister", "pool0")
    assert (done.returncode, "unregistered" in done.stdout) == (0, True)
    assert "lost" not in done.stdout
    assert "REASON" not in done.stdout


# ---- rows


def test_a_transport_that_is_being_opened_says_so_and_so_do_its_rows(make_alone: Callable[[int], Alone]) -> None:
    alone = make_alone(600_000)  # the earlier life of this host has to be silent for so long
    alone.host.kill()
    alone.host.start()
    seen = alone.transport()
    assert (seen["state"], seen["reason"]["message"]) == ("pending", "is being opened")
    (row,) = alone.host.call("cbd.backend.list", **T)
    assert (row["state"], row["worker"]["state"], row["worker"]["error"]) == ("pending", "waiting", None)


@needs_nbd
def test_what_is_in_a_lost_transport_says_why_it_waits_and_what_it_was_to_be(alone: Alone) -> None:
    alone.host.call("cbd.blkdev.start", **T, backend=0, frontend="nbdkit", name="data")
    alone.lose()
    reason = alone.transport()["reason"]
    for noun in ("backend", "blkdev"):
        (row,) = alone.host.call(f"cbd.{noun}.list", **T)
        assert (row["state"], row["worker"]["state"], row["worker"]["error"]) == ("pending", "waiting", reason)
    assert (row["name"], row["frontend"], row["device"]) == ("data", "nbdkit", None)
    listed = alone.host.cli("cbd", "blkdev", "list", "pool0").stdout
    assert f"waiting ({alone.memory}: holds no transport" in listed


# ---- a file that is not what runs any more


def beats(host: Host) -> int:
    return int(host.call("cbd.host.list", **T)[0]["beat"])


def test_a_memory_whose_file_was_replaced_or_removed_goes_on_and_says_so(alone: Alone) -> None:
    host, hidden = alone.host, Path(f"{alone.memory}.hidden")
    alone.memory.rename(hidden)
    try:
        assert wait_until(alone.reason, "it misses the file") == "its file is not at its path any more"
        alone.memory.write_bytes(bytes(SIZE))
        wait_until(lambda: alone.reason() == "another file is at its path now", "it sees another file")
        assert alone.transport()["state"] == "running"
        assert host.worker("backend", "pool0", 0)["state"] == "running"
        hint = alone.transport()["reason"]["hint"]
        assert hint.startswith("stop everything that is in it, then put the file back or begin anew")
        for words in (("status",), ("cbd", "transport", "list")):
            assert f"{alone.memory}: another file is at its path now; stop everything" in host.cli(*words).stdout
        before = beats(host)
        wait_until(lambda: beats(host) > before + 10, "it looks again")
        for what in ("its file is not at its path any more", "another file is at its path now"):
            assert host.log.read_text().count(f"transport pool0: {alone.memory}: {what}") == 1
    finally:
        hidden.rename(alone.memory)
    wait_until(lambda: alone.transport()["reason"] is None, "the file is back")


def test_only_another_file_is_another_file(tmp_path: Path) -> None:
    path, other, link = (tmp_path / name for name in ("memory", "other", "link"))
    for each in (path, other):
        each.write_bytes(b"same")
    link.symlink_to(path)
    with path.open("rb") as file:
        was = os.fstat(file.fileno())
        hard = tmp_path / "hard"
        hard.hardlink_to(path)
        assert [why_not_at(str(name), was) for name in (path, link, hard)] == ["", "", ""]
        assert why_not_at(str(other), was) == "another file is at its path now"
        link.unlink()
        link.symlink_to(other)
        assert why_not_at(str(link), was) == "another file is at its path now"
        for gone in (tmp_path / "missing", path / "below"):
            assert why_not_at(str(gone), was) == "its file is not at its path any more"
        other.unlink()
        link.unlink()
        link.symlink_to(link)
        assert why_not_at(str(link), was) == "", "a path that cannot be followed tells nothing"
