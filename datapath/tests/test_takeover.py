# SPDX-License-Identifier: GPL-3.0-or-later
"""Three hosts over one memory, and what happens when one of them dies, or only sleeps: a writer waits, and loses nothing."""

from __future__ import annotations

import errno
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import Host, wait_until
from lab import MEMORY, Lab, alive, io_works, needs_nbd, running, socket_of
from mishaps import asleep, die, murder, unlock
from nbd_client import Command, NbdClient, Refused
from verifying_writer import Background

from cxl_datapath.errors import Code, DatapathError

pytestmark = needs_nbd

LEASE_MS = 1000
MANY = 1500  # requests that write each block of the disk several times: what came late would be seen
T = {"transport": "pool0"}
ONE = T | {"id": 0}
START = T | {"backend": 0, "frontend": "nbdkit"}


class Trio(Lab):
    """node1, node2 and node3 in transport pool0, with a short lease."""

    def __init__(self, memory: Path, folder: Path, make_host: Callable[..., Host], **geometry: int) -> None:
        self.memory = str(memory)
        self.folder = folder
        self.node1, self.node2, self.node3 = self.nodes = [make_host(f"node{number}") for number in (1, 2, 3)]
        settings = {"ring_depth": 16, "lease_ms": LEASE_MS, **geometry}
        self.node1.call("cbd.transport.format", memory=self.memory, name="pool0", **settings)
        for node in self.nodes:
            node.call("cbd.transport.register", memory=self.memory)

    def host_id(self, name: str) -> int:
        return next(row["id"] for row in self.node3.call("cbd.host.list", **T) if row["name"] == name)

    def path_state(self) -> str:
        return str(self.node2.worker("blkdev", "pool0", 0)["info"]["path_state"])


@pytest.fixture
def make_trio(shared_file: Callable[[int], Path], tmp_path: Path, make_host: Callable[..., Host]) -> Callable[..., Trio]:
    return lambda **geometry: Trio(shared_file(MEMORY), tmp_path, make_host, **geometry)


@pytest.fixture
def trio(make_trio: Callable[..., Trio]) -> Trio:
    return make_trio()


def progress(writer: Background, count: int = 1) -> None:
    before = writer.requests
    wait_until(lambda: writer.requests >= before + count, f"the writer goes on: {writer.writer.figures()}")


def sees(observer: Host, name: str) -> bool:
    return any(row["name"] == name and row["alive"] is True for row in observer.call("cbd.host.list", **T))


def backend_row(host: Host) -> dict[str, Any]:
    (row,) = host.call("cbd.backend.list", **T)
    return dict(row)


def taken_over(host: Host) -> bool:
    """Whether the host knows, and says, that its backend belongs to node3 now."""
    row = next(iter(host.call("cbd.backend.list", **T)), {})
    worker = row.get("worker") or {}
    reason = (worker.get("error") or {}).get("message", "")
    return row.get("host") == "node3" and worker["state"] != "running" and "node3" in reason


# ---- takeover


def test_another_host_takes_the_backend_over(trio: Trio) -> None:
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 1) as writer:
        progress(writer, 100)
        error = trio.node3.refuse(Code.BUSY, "cbd.backend.recover", **ONE)
        assert "node1" in error.message
        die(trio.node1, trio.node3)
        row = trio.node3.call("cbd.backend.recover", **ONE)
        assert (row["host"], row["path"], row["local"], row["worker"]["state"]) == ("node3", str(disk), True, "running")
        progress(writer, MANY)
        trio.node1.start()
        wait_until(lambda: taken_over(trio.node1), f"node1 says who has its backend: {trio.node1.call('cbd.backend.list', **T)}")
        progress(writer, 100)
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)
    # What is left on node1 is a wish that cannot be fulfilled: it is withdrawn there, and nobody else notices.
    trio.node1.call("cbd.backend.stop", **ONE)
    assert backend_row(trio.node1)["host"] == "node3"
    assert io_works(device, 0x31)


def test_a_copy_takes_the_place_of_the_medium(trio: Trio) -> None:
    disk, device = trio.mapped(queues=2)
    copy = trio.folder / "copy"
    with Background(socket_of(device), 8, 2) as writer:
        progress(writer, 100)
        writer.pause()
        shutil.copyfile(disk, copy)
        before = disk.read_bytes()
        die(trio.node1, trio.node3)
        writer.resume()
        wait_until(lambda: trio.path_state() == "paused", "node2 notices")
        assert trio.node3.call("cbd.backend.recover", **ONE, path=str(copy))["path"] == str(copy)
        progress(writer, MANY)
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(copy)
    assert disk.read_bytes() == before


def test_a_copy_that_cannot_take_its_place_is_refused(trio: Trio) -> None:
    _, device = trio.mapped()
    assert io_works(device, 0x11)
    die(trio.node1, trio.node3)
    small = trio.disk("small", 1 << 20)
    error = trio.node3.refuse(Code.RANGE, "cbd.backend.recover", **ONE, path=str(small))
    assert error.object == str(small)
    trio.node3.refuse(Code.NOT_FOUND, "cbd.backend.recover", **ONE, path=str(trio.folder / "missing"))
    trio.node3.refuse(Code.RANGE, "cbd.backend.recover", **T, id=99)
    trio.node3.refuse(Code.NOT_FOUND, "cbd.backend.recover", **T, id=5)
    trio.node3.call("cbd.backend.recover", **ONE)
    wait_until(lambda: trio.path_state() == "serving", "the blkdev follows after all")
    assert io_works(device, 0x12)


def test_the_same_host_recovers_by_starting(trio: Trio) -> None:
    _, device = trio.mapped()
    row = trio.node1.call("cbd.backend.recover", **ONE)
    assert (row["host"], row["worker"]["state"]) == ("node1", "running")
    assert io_works(device, 0x13)


def test_a_larger_copy_keeps_the_size_of_the_device(trio: Trio) -> None:
    disk, device = trio.mapped()
    assert io_works(device, 0x14)
    die(trio.node1, trio.node3)
    large = trio.disk("large", disk.stat().st_size * 2)
    with large.open("r+b") as file:
        file.write(disk.read_bytes())
    row = trio.node3.call("cbd.backend.recover", **ONE, path=str(large))
    assert row["capacity"] == disk.stat().st_size
    wait_until(lambda: trio.path_state() == "serving", "the blkdev follows")
    assert io_works(device, 0x15)


def test_a_host_that_only_slept_writes_nothing_any_more(trio: Trio) -> None:
    """Requests wait in its rings when it falls asleep; by the time it wakes up another host has done them, and newer ones."""
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 3) as writer:
        progress(writer, 100)
        writer.pause()
        worker = trio.node1.worker("backend", "pool0", 0)["pid"]
        with asleep(trio.node1):
            writer.resume()
            unlock(disk, worker)
            wait_until(lambda: alive(trio.node3, "node1") is False, "node3 sees node1 dead")
            trio.node3.call("cbd.backend.recover", **ONE)
            progress(writer, MANY)
        wait_until(lambda: taken_over(trio.node1), "node1 says who has its backend")
        wait_until(lambda: not running(worker), "its worker has ended")
        progress(writer, MANY)
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)
    hosts = {row["name"]: row for row in trio.node3.call("cbd.host.list", **T)}
    assert (hosts["node1"]["alive"], hosts["node1"]["fenced"], hosts["node1"]["epoch"]) == (True, False, 2)


def test_a_blkdevs_host_that_only_slept_goes_on_with_other_channels(trio: Trio) -> None:
    _, device = trio.mapped(queues=2)
    writer = Background(socket_of(device), 8, 4)
    with writer:
        progress(writer, 100)
        with asleep(trio.node2):
            wait_until(lambda: alive(trio.node3, "node2") is False, "node3 sees node2 dead")
        progress(writer, MANY)
        writer.finish()
        assert writer.writer.errors == 0


# ---- without a takeover


def test_requests_fail_after_the_timeout_and_work_again_with_the_backend(trio: Trio) -> None:
    disk, device = trio.mapped(queues=2, io_timeout=2)
    with NbdClient(socket_of(device)) as client:
        client.call(Command.WRITE, 0, data=b"1" * 4096)
        murder(trio.node1)
        with pytest.raises(Refused) as caught:
            client.call(Command.READ, 0, 4096)
        assert caught.value.errno == errno.EIO
        assert trio.path_state() == "offline"
        with pytest.raises(Refused):  # at once now
            client.call(Command.WRITE, 4096, data=b"2" * 4096)
        trio.node1.start()
        wait_until(lambda: trio.path_state() == "serving", "the path is back")
        assert client.call(Command.READ, 0, 4096) == b"1" * 4096
        client.call(Command.WRITE, 8192, data=b"3" * 4096)
        assert client.connections == 1
    assert disk.read_bytes()[8192:12288] == b"3" * 4096


def test_a_writer_that_gets_errors_still_loses_nothing(trio: Trio) -> None:
    disk, device = trio.mapped(queues=2, io_timeout=1)
    with Background(socket_of(device), 8, 5, frozenset({errno.EIO})) as writer:
        progress(writer, 100)
        murder(trio.node1)
        wait_until(lambda: writer.requests and writer.writer.errors, "requests fail")
        wait_until(lambda: alive(trio.node3, "node1") is False, "node3 sees node1 dead")
        trio.node3.call("cbd.backend.recover", **ONE)
        wait_until(lambda: trio.path_state() == "serving", "the path is back")
        writer.pause()
        errors = writer.writer.errors
        writer.resume()
        progress(writer, MANY)
        writer.finish()
        assert writer.writer.errors == errors
    writer.writer.check_file(disk)


# ---- clearing


def test_nothing_of_a_live_host_is_cleared(trio: Trio) -> None:
    _, device = trio.mapped()
    for method, number, owner in (
        ("cbd.host.clear", trio.host_id("node1"), "node1"),
        ("cbd.host.clear", trio.host_id("node2"), "node2"),
        ("cbd.blkdev.clear", 0, "node2"),
    ):
        error = trio.node3.refuse(Code.BUSY, method, **T, id=number)
        assert owner in error.message
    trio.node3.refuse(Code.BUSY, "cbd.backend.clear", **ONE)
    trio.node3.refuse(Code.BUSY, "cbd.backend.clear", **ONE, force=True)
    trio.node1.refuse(Code.INVALID, "cbd.host.clear", **T, id=trio.host_id("node1"))
    trio.node3.refuse(Code.NOT_FOUND, "cbd.host.clear", **T, id=9)
    trio.node3.refuse(Code.NOT_FOUND, "cbd.blkdev.clear", **T, id=9)
    trio.node3.refuse(Code.NOT_FOUND, "cbd.backend.clear", **T, id=9)
    for kind in ("host", "backend", "blkdev"):
        trio.node3.refuse(Code.RANGE, f"cbd.{kind}.clear", **T, id=16)
    assert io_works(device, 0x21)


def test_a_dead_hosts_blkdev_is_cleared_and_its_backend_is_free(trio: Trio) -> None:
    trio.mapped(queues=2)
    die(trio.node2, trio.node3)
    error = trio.node3.refuse(Code.BUSY, "cbd.blkdev.start", **START)
    assert "node2" in error.message
    assert trio.node3.call("cbd.blkdev.clear", **ONE)["state"] == "cleared"
    assert trio.node1.call("cbd.blkdev.list", **T) == []
    device = trio.node3.call("cbd.blkdev.start", **START)["device"]
    assert io_works(device, 0x22)
    trio.node2.start()
    row = wait_until(
        lambda: next((row for row in trio.node2.call("cbd.blkdev.list", **T) if (row.get("worker") or {}).get("error")), None),
        "node2 says what became of its blkdev",
    )
    assert row["worker"]["state"] != "running"
    assert io_works(device, 0x23)


def test_a_dead_host_is_cleared_and_comes_back_as_a_new_one(trio: Trio) -> None:
    _, device = trio.mapped()
    number = trio.host_id("node2")
    die(trio.node2, trio.node3)
    row = trio.node3.call("cbd.host.clear", **T, id=number)
    assert (row["state"], row["alive"], row["fenced"]) == ("cleared", False, True)
    assert {row["name"] for row in trio.node1.call("cbd.host.list", **T)} == {"node1", "node3"}
    assert trio.node1.call("cbd.blkdev.list", **T) == []
    trio.node3.refuse(Code.NOT_FOUND, "cbd.host.clear", **T, id=number)
    trio.node2.start()
    wait_until(lambda: sees(trio.node1, "node2"), "node2 is back")
    (back,) = [row for row in trio.node1.call("cbd.host.list", **T) if row["name"] == "node2"]
    assert (back["fenced"], back["epoch"] > row["epoch"] or back["id"] != number) == (False, True)
    trio.node2.call("cbd.blkdev.stop", **ONE)
    assert io_works(trio.node2.call("cbd.blkdev.start", **START)["device"], 0x24)
    assert not device.startswith("/dev")


@pytest.mark.parametrize("kind", ["host", "backend"])
def test_what_live_blkdevs_use_is_cleared_by_force_only(trio: Trio, kind: str) -> None:
    _, device = trio.mapped(io_timeout=3600)
    number = {"host": trio.host_id("node1"), "backend": 0}[kind]
    die(trio.node1, trio.node3)
    error = trio.node3.refuse(Code.BUSY, f"cbd.{kind}.clear", **T, id=number)
    assert "node2" in error.message
    trio.node3.call(f"cbd.{kind}.clear", **T, id=number, force=True)
    with NbdClient(socket_of(device)) as client:
        with pytest.raises(Refused) as caught:  # a backend that was cleared does not come back: nobody has to wait
            client.call(Command.READ, 0, 4096)
        assert caught.value.errno == errno.EIO
    assert trio.node3.call("cbd.backend.list", **T) == []
    wait_until(lambda: _stopped(trio), "the device can be stopped")
    assert trio.node3.call("cbd.blkdev.list", **T) == []


def _stopped(trio: Trio) -> bool:
    try:
        return bool(trio.node2.call("cbd.blkdev.stop", **ONE)["state"] == "stopped")
    except DatapathError as error:
        assert error.code == Code.BUSY  # the server has not yet seen that its client is gone
        return False


# ---- channels


def test_channels_of_a_dead_blkdev_are_used_again(make_trio: Callable[..., Trio]) -> None:
    trio = make_trio(channels=2)
    trio.mapped(queues=2, read_only=True)
    wish = START | {"queues": 2, "read_only": True}
    trio.node3.refuse(Code.FULL, "cbd.blkdev.start", **wish)
    for round_number in range(3):
        used, other = (trio.node2, trio.node3) if round_number % 2 == 0 else (trio.node3, trio.node2)
        die(used, trio.node1)
        number = next(row["id"] for row in trio.node1.call("cbd.blkdev.list", **T))
        trio.node1.call("cbd.blkdev.clear", **T, id=number)
        started = other.call("cbd.blkdev.start", **wish)
        assert sorted(started["channels"]) == [0, 1]
        used.start()
        wait_until(lambda back=used: sees(trio.node1, back.name), "it is back")
        used.call("cbd.blkdev.stop", **T, id=number)  # it still wants what was cleared


def test_a_takeover_takes_fresh_channels(make_trio: Callable[..., Trio]) -> None:
    """A dead host that only slept could still answer in its old ones; back again, it gives them back."""
    trio = make_trio(channels=4)
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 6) as writer:
        for dead, heir, channels in ((trio.node1, trio.node3, {2, 3}), (trio.node3, trio.node1, {0, 1})):
            progress(writer, 100)
            if heir is trio.node1:
                heir.start()
                wait_until(lambda: sees(trio.node3, "node1"), "the heir is registered")
            die(dead, heir)
            heir.call("cbd.backend.recover", **ONE)
            progress(writer, MANY)
            assert set(trio.node2.call("cbd.blkdev.list", **T)[0]["channels"]) == channels
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)


def test_a_takeover_without_free_channels_waits_for_the_clearing_of_the_dead(make_trio: Callable[..., Trio]) -> None:
    trio = make_trio(channels=2)
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 7) as writer:
        progress(writer, 100)
        die(trio.node1, trio.node3)
        trio.node3.call("cbd.backend.recover", **ONE)
        wait_until(lambda: "cbd host clear" in trio.node2.log.read_text(), "node2 says what to do")
        assert trio.path_state() == "paused"
        trio.node3.call("cbd.host.clear", **T, id=trio.host_id("node1"))
        progress(writer, MANY)
        writer.finish()
        assert (writer.writer.errors, writer.connections) == (0, 1)
    writer.writer.check_file(disk)


# ---- clocks

_JUMPING_CLOCK = """
#define _GNU_SOURCE
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* An hour ahead, an hour behind, in turns of a second of the true time. */
static long lie(long now) { return now + (now % 2 ? 3600 : -3600); }

int clock_gettime(clockid_t id, struct timespec *out)
{
    int err = syscall(SYS_clock_gettime, id, out);
    if (!err && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        out->tv_sec = lie(out->tv_sec);
    return err;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    int err = syscall(SYS_gettimeofday, out, zone);
    if (!err)
        out->tv_sec = lie(out->tv_sec);
    return err;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture
def jumping_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that is started has a wall clock that jumps back and forth by two hours."""
    source, library = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(_JUMPING_CLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    monkeypatch.setenv("LD_PRELOAD", str(library))
    shown = {subprocess.check_output(["date", "+%s"], text=True) for _ in wait_twice()}
    assert len(shown) == 2
    assert abs(int(min(shown)) - int(max(shown))) > 7000


def wait_twice() -> Iterator[None]:
    import time

    yield
    time.sleep(1.0)
    yield


def test_a_wall_clock_that_jumps_kills_nobody(jumping_clock: None, make_trio: Callable[..., Trio]) -> None:
    trio = make_trio()
    disk, device = trio.mapped(queues=2)
    with Background(socket_of(device), 8, 7) as writer:
        for node in trio.nodes:
            for peer in trio.nodes:
                wait_until(lambda a=node, b=peer: alive(a, b.name) is True, "everybody sees everybody")
        gaps = len(writer.writer.gaps)
        progress(writer, MANY)
        assert {alive(node, peer.name) for node in trio.nodes for peer in trio.nodes} == {True}
        die(trio.node1, trio.node3)
        trio.node3.call("cbd.backend.recover", **ONE)
        progress(writer, 100)
        writer.finish()
        assert writer.connections == 1
    assert len(writer.writer.gaps) >= gaps
    writer.writer.check_file(disk)
    assert trio.node2.worker("blkdev", "pool0", 0)["restarts"] == 0
