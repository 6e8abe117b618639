# SPDX-License-Identifier: GPL-3.0-or-later
"""The front ends that make real block devices: ublk and the kernel's nbd client. Needs root and a kernel that has them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, wait_until

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.frontends.nbd import NbdFrontEnd
from cxl_datapath.frontends.ublk import UblkFrontEnd

MIB = 1 << 20
DISK = 320 * MIB  # what XFS wants at least, and a little more

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=120).stdout


def make_filesystem(device: Path) -> None:
    """Guests of a lab have no e2fsprogs."""
    run("mkfs.ext4" if shutil.which("mkfs.ext4") else "mkfs.xfs", "-q", device)


@pytest.fixture(params=["ublk", "nbd"])
def frontend(request) -> str:
    kind = {"ublk": UblkFrontEnd, "nbd": NbdFrontEnd}[request.param]
    if reason := kind.missing():
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def ublk() -> None:
    if reason := UblkFrontEnd.missing():
        pytest.skip(reason)


class Pair:
    """A disk of node1 that node2 sees as /dev/<name>."""

    def __init__(self, node1: Host, node2: Host, memory: Path, disk: Path) -> None:
        self.node1, self.node2, self.memory, self.disk = node1, node2, memory, disk
        self.name = f"cbdtest{os.getpid()}"
        self.link = Path("/dev") / self.name
        node1.call("cbd.transport.format", memory=str(memory), name="pool0", ring_depth=16)
        for node in (node1, node2):
            node.call("cbd.transport.register", memory=str(memory))
        os.truncate(disk, DISK)
        node1.call("cbd.backend.start", transport="pool0", path=str(disk))

    def start(self, frontend: str, queues: int = 1) -> dict:
        return self.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend=frontend, queues=queues, name=self.name)

    def stop(self) -> None:
        self.node2.call("cbd.blkdev.stop", transport="pool0", id=0)

    def worker(self) -> dict:
        return self.node2.worker("blkdev", "pool0", 0)

    def running_again(self, restarts: int = 1) -> None:
        wait_until(
            lambda: self.worker()["restarts"] >= restarts and self.worker()["state"] == "running",
            f"it runs again: {self.worker()}",
        )

    def write(self, pattern: int, length: int = MIB) -> None:
        with self.link.open("r+b", buffering=0) as device:
            device.write(bytes([pattern]) * length)
            os.fsync(device.fileno())

    def on_disk(self, length: int = MIB) -> set[int]:
        with self.disk.open("rb") as file:
            return set(file.read(length))


@pytest.fixture
def pair(shared_file, tmp_path, make_host) -> Iterator[Pair]:
    disk = tmp_path / "disk"
    disk.touch()
    made = Pair(make_host("node1"), make_host("node2"), shared_file(64 * MIB), disk)
    yield made
    subprocess.run(["umount", "--quiet", str(tmp_path / "mnt")], check=False)
    try:
        made.stop()
    except DatapathError as error:
        assert error.code in (Code.NOT_FOUND, Code.NOT_READY), error
    assert not os.path.lexists(made.link), made.node2.log.read_text()


@pytest.mark.parametrize("queues", [1, 2])
def test_bytes_arrive_under_a_stable_name(frontend, pair, queues):
    started = pair.start(frontend, queues)
    assert (started["device"], started["frontend"]) == (str(pair.link), frontend)
    assert int(run("blockdev", "--getsize64", pair.link)) == DISK
    pair.write(0x5A, 4 * MIB)
    assert pair.on_disk(4 * MIB) == {0x5A}
    run("blkdiscard", "--zeroout", "--length", MIB, pair.link)
    assert pair.on_disk() == {0}
    node = pair.link.resolve()
    pair.stop()
    assert not os.path.lexists(pair.link)
    assert frontend == "nbd" or not node.exists()
    assert pair.start(frontend, queues)["device"] == str(pair.link)
    pair.write(0x5B)
    assert pair.on_disk() == {0x5B}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one CPU has all queues")
def test_each_queue_runs_where_its_requests_come_from(ublk, pair):
    pair.start("ublk", 2)
    disk = pair.link.resolve().name
    wanted = [set(path.read_text().replace(",", " ").split()) for path in Path(f"/sys/block/{disk}/mq").glob("*/cpu_list")]
    threads = [path.parent for path in Path(f"/proc/{pair.worker()['pid']}/task").glob("*/comm")]
    ours = [int(each.name) for each in threads if (each / "comm").read_text() == "cbd-ublk\n"]
    found = [{str(cpu) for cpu in os.sched_getaffinity(thread)} for thread in ours]
    assert len(found) == 2 and sorted(map(sorted, found)) == sorted(map(sorted, wanted))


def test_a_mounted_device_is_not_stopped(frontend, pair, tmp_path):
    pair.start(frontend)
    make_filesystem(pair.link)
    mount = tmp_path / "mnt"
    mount.mkdir()
    run("mount", pair.link, mount)
    (mount / "file").write_text("precious")
    with pytest.raises(DatapathError) as caught:
        pair.stop()
    assert caught.value.code == Code.BUSY
    assert pair.worker()["state"] == "running"
    assert pair.link.exists()
    run("sync")
    assert (mount / "file").read_text() == "precious"
    run("umount", mount)
    pair.stop()
    assert b"precious" in pair.disk.read_bytes()


def test_an_open_device_is_not_stopped(frontend, pair):
    pair.start(frontend)
    with pair.link.open("rb"):
        with pytest.raises(DatapathError) as caught:
            pair.stop()
        assert caught.value.code == Code.BUSY
        assert str(os.getpid()) in caught.value.message
    pair.stop()


def test_a_name_that_is_taken_is_left_alone(frontend, pair):
    pair.link.write_text("mine")
    try:
        with pytest.raises(DatapathError) as caught:
            pair.start(frontend)
        assert caught.value.code == Code.EXISTS
        assert pair.link.read_text() == "mine"
        assert pair.node2.call("cbd.blkdev.list", transport="pool0") == []
    finally:
        pair.link.unlink()
    pair.start(frontend)


def test_a_killed_worker_comes_back_under_the_same_name(frontend, pair):
    pair.start(frontend)
    pair.write(1)
    pair.node2.kill_worker("blkdev", "pool0", 0)
    pair.running_again()
    pair.write(2)
    assert pair.on_disk() == {2}


def test_auto_takes_ublk_where_it_is(ublk, pair):
    assert pair.start("auto")["frontend"] == "ublk"


def _writer(link: Path, rounds: int) -> subprocess.Popen[str]:
    """Writes and fsyncs numbered blocks, one line per block that is stable."""
    program = (
        "import os, sys\n"
        f"fd = os.open({str(link)!r}, os.O_RDWR)\n"
        f"for number in range({rounds}):\n"
        "    block = number.to_bytes(8, 'little') * 512\n"
        "    assert os.pwrite(fd, block, number * 4096) == 4096\n"
        "    os.fsync(fd)\n"
        "    print(number, flush=True)\n"
    )
    return subprocess.Popen(["python3", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("victim", ["blkdev worker", "backend worker", "node2", "node1"])
def test_ublk_loses_nothing_when_something_is_killed(ublk, pair, victim):
    """A writer goes on as if nothing had happened, and every block that it wrote is on the backend's disk."""
    pair.start("ublk", queues=2)
    device = pair.link.resolve()
    rounds = 2000
    writer = _writer(pair.link, rounds)
    assert writer.stdout is not None
    for _ in range(200):
        assert writer.stdout.readline()
    if victim == "blkdev worker":
        pair.node2.kill_worker("blkdev", "pool0", 0)
    elif victim == "backend worker":
        pair.node1.kill_worker("backend", "pool0", 0)
    else:
        node = pair.node1 if victim == "node1" else pair.node2
        node.kill()
        node.start()
    _, errors = writer.communicate(timeout=120)
    assert writer.returncode == 0, errors
    assert pair.link.resolve() == device
    with pair.disk.open("rb") as disk:
        for number in range(rounds):
            assert disk.read(4096) == number.to_bytes(8, "little") * 512, f"block {number}"


def test_a_mounted_ublk_device_survives_a_restart_of_the_daemon(ublk, pair, tmp_path):
    pair.start("ublk")
    make_filesystem(pair.link)
    mount = tmp_path / "mnt"
    mount.mkdir()
    run("mount", pair.link, mount)
    (mount / "before").write_text("before")
    pair.node2.stop()
    pair.node2.start()
    wait_until(lambda: pair.worker()["state"] == "running", "the device runs again")
    (mount / "after").write_text("after")
    run("sync")
    run("umount", mount)
    pair.stop()
    assert b"before" in pair.disk.read_bytes()
    assert b"after" in pair.disk.read_bytes()


@pytest.mark.parametrize("used", [False, True])
def test_a_kept_ublk_device_of_a_host_that_lost_its_state_is_taken_back_or_removed(ublk, pair, used):
    pair.start("ublk")
    pair.write(1)
    node = pair.link.resolve()
    user = pair.link.open("rb") if used else None
    pair.node2.kill()
    (pair.node2.state / "state.json").unlink()
    pair.node2.start()
    pair.node2.call("cbd.transport.register", memory=str(pair.memory))

    def forgotten() -> list[dict]:
        return [row for row in pair.node2.call("cbd.blkdev.list", transport="pool0") if row["state"] == "forgotten"]

    assert [row["name"] for row in forgotten()] == [pair.name]
    if user:
        error = pair.node2.refuse(Code.BUSY, "cbd.blkdev.stop", transport="pool0", id=pair.name)
        assert f"blkdev clear pool0 {pair.name} --force" in error.hint
        assert pair.start("ublk")["device"] == str(pair.link)
        assert pair.link.resolve() == node and forgotten() == []
        user.close()
        pair.write(2)
        assert pair.on_disk() == {2}
    else:
        assert pair.node2.call("cbd.blkdev.stop", transport="pool0", id=pair.name)["state"] == "stopped"
        assert not node.exists() and not os.path.lexists(pair.link)


def test_a_ublk_device_without_a_backend_can_be_stopped(ublk, pair):
    pair.start("ublk")
    node = pair.link.resolve()
    # What udev asks a new device would wait for the backend, and the device is not removed under it.
    run("udevadm", "settle")
    pair.node1.kill()
    pair.node2.kill_worker("blkdev", "pool0", 0)
    wait_until(lambda: pair.worker()["error"], "the worker cannot come back")
    assert node.exists()
    pair.stop()
    assert not node.exists(), pair.node2.log.read_text()
    assert not os.path.lexists(pair.link)
