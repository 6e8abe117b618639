# SPDX-License-Identifier: GPL-3.0-or-later
"""Three hosts over one memory, and what happens when one of them dies, or only sleeps: a writer waits, and loses nothing."""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import alive, io_works, needs_nbd, running, socket_of
from mishaps import asleep, die, murder, unlock, with_pid
from nbd_client import Command, NbdClient, Refused
from trio import MANY, ONE, T, Trio, backend_row, progress, taken_over
from verifying_writer import Background

from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

pytestmark = needs_nbd


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


def test_a_host_that_dies_while_it_takes_over_goes_on_with_that(trio: Trio) -> None:
    _, device = trio.mapped()
    die(trio.node1, trio.node3)
    node3 = trio.host_id("node3")
    with Mapping(resolve(trio.memory), writable=False) as memory, ThreadPoolExecutor(1) as others:
        backends = Registry(memory, attach(memory, trio.memory)).backends
        asked = others.submit(trio.node3.call, "cbd.backend.recover", **ONE)
        while (entry := backends.read(0)) is None or entry.host_id != node3:
            assert not asked.done() or not asked.exception(), asked.exception()
        with_pid(trio.node3.pid, signal.SIGSTOP)  # at once: as a rule it has not heard of it yet
        murder(trio.node3)
        if (error := asked.exception()) is not None:  # None: it was quicker
            assert isinstance(error, DatapathError) and error.code == Code.FAILED, error
    trio.node3.start()
    wait_until(lambda: backend_row(trio.node2)["alive"], "node3 serves what it took over")
    assert io_works(device, 0x41)


def test_who_comes_second_to_a_takeover_hears_who_was_first(trio: Trio) -> None:
    trio.mapped()
    die(trio.node1, trio.node3)
    wait_until(lambda: alive(trio.node2, "node1") is False, "node2 sees it, too")

    def recover(node: Host) -> str:
        try:  # each its copy: on machines of their own none would hear of the other's lock
            return str(node.call("cbd.backend.recover", **ONE, path=str(trio.disk(node.name)))["host"])
        except DatapathError as error:
            assert error.code == Code.BUSY
            return f"{error.message}; {error.hint}"

    with ThreadPoolExecutor() as pool:
        said = dict(zip(("node2", "node3"), pool.map(recover, (trio.node2, trio.node3)), strict=True))
    (first,) = [name for name, word in said.items() if word == name]
    (second,) = [word for name, word in said.items() if name != first]
    assert f"host {first}" in second
    assert "alive again" not in second


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
    wait_until(lambda: alive(trio.node3, "node1") is True, "node3 has watched node1's new incarnation for long enough")
    hosts = {row["name"]: row for row in trio.node3.call("cbd.host.list", **T)}
    assert (hosts["node1"]["fenced"], hosts["node1"]["epoch"]) == (False, 2)


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
        wait_until(lambda: trio.path_state() == "offline", "the daemon is told, after the requests are")
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
