# SPDX-License-Identifier: GPL-3.0-or-later
"""Two real hosts (daemons) over one memory: a file of node1 is a block device of node2, by way of real NBD clients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hosts import Host, wait_until

from cxl_datapath.errors import Code

MIB = 1 << 20
MEMORY = 64 * MIB
DISK = 16 * MIB

needs_nbd = pytest.mark.skipif(
    not all(map(shutil.which, ("nbdkit", "nbdcopy", "qemu-io"))), reason="needs nbdkit, nbdcopy and qemu-io"
)
pytestmark = needs_nbd


class Lab:
    """node1 and node2 registered in transport pool0."""

    def __init__(self, memory: Path, folder: Path, make_host: Callable[..., Host]) -> None:
        self.memory = str(memory)
        self.folder = folder
        self.node1, self.node2 = make_host("node1"), make_host("node2")
        self.node1.call("cbd.transport.format", memory=self.memory, name="pool0", ring_depth=16)
        for node in (self.node1, self.node2):
            node.call("cbd.transport.register", memory=self.memory)

    def disk(self, name: str = "disk", size: int = DISK) -> Path:
        path = self.folder / name
        path.touch()
        os.truncate(path, size)
        return path

    def mapped(self, **blkdev: object) -> tuple[Path, str]:
        """A disk of node1 as a device of node2: its path and the NBD URI."""
        disk = self.disk()
        self.node1.call("cbd.backend.start", transport="pool0", path=str(disk))
        started = self.node2.call("cbd.blkdev.start", **{"transport": "pool0", "backend": 0, "frontend": "nbdkit", **blkdev})
        return disk, started["device"]


@pytest.fixture
def lab(shared_file, tmp_path, make_host) -> Lab:
    return Lab(shared_file(MEMORY), tmp_path, make_host)


def qemu_io(device: str, *commands: str) -> subprocess.CompletedProcess[str]:
    arguments = [part for command in commands for part in ("-c", command)]
    return subprocess.run(["qemu-io", "-f", "raw", *arguments, device], capture_output=True, text=True, timeout=60, check=False)


def io_works(device: str, pattern: int) -> bool:
    """Writes and reads back; False when the device does not do it (now)."""
    done = qemu_io(device, f"write -P {pattern:#x} 1M 64k", f"read -P {pattern:#x} 1M 64k")
    return done.returncode == 0 and "rror" not in done.stdout + done.stderr and "failed" not in done.stdout + done.stderr


@pytest.mark.parametrize("queues", [1, 4])
def test_bytes_arrive_on_the_backend_and_come_back(lab, tmp_path, queues):
    disk, device = lab.mapped(queues=queues)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(DISK))
    subprocess.run(["nbdcopy", source, device], check=True, timeout=60)
    assert disk.read_bytes() == source.read_bytes()
    subprocess.run(["nbdcopy", device, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_the_device_is_what_the_backend_is(lab):
    disk, device = lab.mapped()
    shown = json.loads(subprocess.run(["nbdinfo", "--json", device], check=True, capture_output=True, text=True).stdout)[
        "exports"
    ][0]
    assert (shown["export-size"], shown["is_read_only"], shown["can_flush"]) == (DISK, False, True)
    written = qemu_io(
        device, "write -P 0x5a 512k 128k", "write -z 576k 4k", "flush", "read -P 0x5a 512k 64k", "read -P 0 576k 4k"
    )
    assert written.returncode == 0, written.stdout + written.stderr
    raw = disk.read_bytes()
    assert raw[512 << 10 : 576 << 10] == b"\x5a" * (64 << 10)
    assert raw[576 << 10 : 580 << 10] == bytes(4096)
    assert qemu_io(device, f"read {DISK} 512").returncode != 0


def test_discard_frees_the_backend(lab):
    disk, device = lab.mapped()
    assert qemu_io(device, "write -P 1 0 4M", "flush").returncode == 0
    before = disk.stat().st_blocks
    assert (
        qemu_io(
            f"json:{json.dumps({'driver': 'raw', 'discard': 'unmap', 'file': {'driver': 'nbd', 'server': _unix(device)}})}",
            "discard 0 4M",
        ).returncode
        == 0
    )
    assert disk.stat().st_blocks < before


def _unix(device: str) -> dict[str, str]:
    return {"type": "unix", "path": device.partition("socket=")[2]}


def test_a_read_only_backend_cannot_be_written(lab):
    disk = lab.disk()
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk), read_only=True)
    device = lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"]
    assert qemu_io(device, "read 0 4k").returncode != 0  # qemu-io opens read-write
    done = subprocess.run(
        ["qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4k", device], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_directions_at_once(lab):
    _, first = lab.mapped()
    other = lab.disk("other")
    lab.node2.call("cbd.backend.start", transport="pool0", path=str(other), id=5)
    second = lab.node1.call("cbd.blkdev.start", transport="pool0", backend=5, frontend="nbdkit", name="back")["device"]
    assert io_works(first, 0x11)
    assert io_works(second, 0x22)
    assert other.read_bytes()[MIB : MIB + 65536] == b"\x22" * 65536


def test_everything_can_be_taken_down_and_built_again(lab):
    for pattern in (0x31, 0x32, 0x33):
        disk, device = lab.mapped(queues=2)
        assert io_works(device, pattern)
        stopped = lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
        assert (stopped["state"], stopped["device"]) == ("stopped", None)
        assert not Path(_unix(device)["path"]).exists()
        assert lab.node1.call("cbd.blkdev.list", transport="pool0") == []
        lab.node1.call("cbd.backend.stop", transport="pool0", id=0)
        assert lab.node2.call("cbd.backend.list", transport="pool0") == []
        assert disk.read_bytes()[MIB : MIB + 4] == bytes([pattern]) * 4
    for node in (lab.node1, lab.node2):
        node.call("cbd.transport.unregister", transport="pool0")
        assert node.call("cbd.transport.list") == []


def test_the_last_channel_can_be_used_again_at_once(shared_file, tmp_path, make_host):
    lab = Lab(shared_file(MEMORY), tmp_path, make_host)
    for node in (lab.node1, lab.node2):
        node.call("cbd.transport.unregister", transport="pool0")
    lab.node1.call("cbd.transport.format", memory=lab.memory, name="tiny", channels=1, force=True)
    for node in (lab.node1, lab.node2):
        node.call("cbd.transport.register", memory=lab.memory)
    lab.node1.call("cbd.backend.start", transport="tiny", path=str(lab.disk()))
    for pattern in (1, 2, 3):
        started = lab.node2.call("cbd.blkdev.start", transport="tiny", backend=0, frontend="nbdkit")
        assert io_works(started["device"], pattern)
        lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", transport="tiny", backend=0, frontend="nbdkit", queues=2)
        lab.node2.call("cbd.blkdev.stop", transport="tiny", id=0)
    lab.node2.refuse(Code.FULL, "cbd.blkdev.start", transport="tiny", backend=0, frontend="nbdkit", queues=2)
    assert lab.node1.call("cbd.blkdev.list", transport="tiny") == []


# ---- deaths and restarts


def test_a_killed_blkdev_worker_comes_back(lab):
    disk, device = lab.mapped()
    assert io_works(device, 0x41)
    old = lab.node2.kill_worker("blkdev", "pool0", 0)
    wait_until(
        lambda: (now := lab.node2.worker("blkdev", "pool0", 0))["state"] == "running" and now["pid"] != old, "a new worker runs"
    )
    assert io_works(device, 0x42)
    assert disk.read_bytes()[MIB : MIB + 4] == b"\x42" * 4
    assert lab.node2.worker("blkdev", "pool0", 0)["restarts"] == 1


def test_a_killed_backend_worker_comes_back_and_the_blkdev_follows(lab):
    _, device = lab.mapped(queues=2)
    assert io_works(device, 0x51)
    lab.node1.kill_worker("backend", "pool0", 0)
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["restarts"] >= 1, "the blkdev notices")
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "the blkdev runs again")
    assert io_works(device, 0x52)


def test_a_killed_nbd_server_comes_back(lab):
    _, device = lab.mapped()
    pid = int((lab.node2.runtime / "cbd0.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["restarts"] == 1, "the worker notices")
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "it runs again")
    assert io_works(device, 0x61)


def _children(pid: int) -> set[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return {int(child) for child in found} | {deep for child in found for deep in _children(int(child))}


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_daemon_leaves_no_process_behind_and_rebuilds_everything(lab, how):
    disk, device = lab.mapped(queues=2)
    assert io_works(device, 0x71)
    for node in (lab.node2, lab.node1):
        processes = _children(node.pid)
        assert processes
        getattr(node, how)()
        wait_until(lambda gone=processes: not any(map(_running, gone)), "all children end")
    lab.node1.start()
    lab.node2.start()
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", f"{lab.node2.call('status')}")
    (row,) = lab.node2.call("cbd.blkdev.list", transport="pool0")
    assert (row["device"], row["queues"], row["state"]) == (device, 2, "running")
    assert io_works(device, 0x72)
    assert disk.read_bytes()[MIB : MIB + 4] == b"\x72" * 4
    epochs = {host["name"]: host["epoch"] for host in lab.node1.call("cbd.host.list", transport="pool0")}
    assert epochs == {"node1": 2, "node2": 2}


def test_only_the_backends_host_restarts(lab):
    _, device = lab.mapped()
    lab.node1.stop()
    wait_until(lambda: _alive(lab.node2, "node1") is False, "node2 sees node1 die")
    lab.node1.start()
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["restarts"] >= 1, "the blkdev notices the new backend")
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "the blkdev runs again")
    assert io_works(device, 0x73)


def _alive(observer: Host, name: str) -> object:
    return next(host["alive"] for host in observer.call("cbd.host.list", transport="pool0") if host["name"] == name)


def test_liveness_is_seen_by_the_others(lab):
    wait_until(lambda: _alive(lab.node1, "node2") is True, "node1 sees node2 alive")
    assert _alive(lab.node2, "node2") is True
    lab.node2.kill()
    wait_until(lambda: _alive(lab.node1, "node2") is False, "node1 sees node2 dead")
    lab.node2.start()
    wait_until(lambda: _alive(lab.node1, "node2") is True, "node1 sees node2 alive again")


def test_a_missing_memory_is_waited_for_with_the_reason_in_view(lab):
    lab.mapped()
    lab.node2.stop()
    hidden = Path(lab.memory + ".hidden")
    Path(lab.memory).rename(hidden)
    try:
        lab.node2.start()
        (row,) = wait_until(lambda: [t for t in lab.node2.call("cbd.transport.list") if t["reason"]], "the reason is shown")
        assert (row["state"], row["reason"]["code"], row["reason"]["object"]) == ("pending", "not_found", lab.memory)
        error = lab.node2.refuse(Code.NOT_READY, "cbd.host.list", transport="pool0")
        assert lab.memory in error.message
        (blkdev,) = lab.node2.call("cbd.blkdev.list", transport="pool0")
        assert blkdev["state"] == "pending"
        lab.node2.refuse(Code.NOT_FOUND, "cbd.transport.register", memory=lab.memory)
    finally:
        hidden.rename(lab.memory)
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "it is rebuilt by itself")


def test_a_path_that_vanished_is_shown_and_start_tries_again(lab):
    disk, _ = lab.mapped()
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    lab.node1.stop()
    disk.rename(disk.with_suffix(".hidden"))
    lab.node1.start()
    worker = wait_until(
        lambda: (lab.node1.call("cbd.backend.list", transport="pool0") or [{}])[0].get("worker"), "the backend is tried"
    )
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["error"], f"the reason is shown: {worker}")
    assert lab.node1.worker("backend", "pool0", 0)["error"]["object"] == str(disk)
    lab.node1.refuse(Code.NOT_FOUND, "cbd.backend.start", transport="pool0", path=str(disk))
    disk.with_suffix(".hidden").rename(disk)
    assert lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk))["worker"]["state"] == "running"


def test_a_damaged_state_file_is_refused(lab):
    lab.node1.stop()
    (lab.node1.state / "state.json").write_text('{"version": 1, "transports": [')
    done = subprocess.run(lab.node1.command(), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "state.json: is damaged" in done.stderr


def test_one_daemon_per_runtime_folder_and_a_stale_socket_is_replaced(lab):
    second = subprocess.run(lab.node1.command(), capture_output=True, text=True, timeout=30, check=False)
    assert (second.returncode, "another cxl-datapathd runs there" in second.stderr) == (1, True)
    assert lab.node1.call("hello")["pid"] == lab.node1.pid
    lab.node1.kill()
    assert lab.node1.socket.exists()
    lab.node1.start()


# ---- the contract's errors


def test_format_is_refused_over_a_transport_and_over_live_hosts(lab, make_host):
    other = make_host("node3")
    error = other.refuse(Code.EXISTS, "cbd.transport.format", memory=lab.memory, name="pool1")
    assert "force" in error.hint
    error = other.refuse(Code.BUSY, "cbd.transport.format", memory=lab.memory, name="pool1", force=True)
    assert "node1" in error.message or "node2" in error.message
    error = lab.node1.refuse(Code.BUSY, "cbd.transport.format", memory=lab.memory, name="pool1", force=True)
    assert "unregister" in error.hint
    lab.node1.kill()
    lab.node2.kill()
    assert other.call("cbd.transport.probe", memory=lab.memory)["info"]["name"] == "pool0"
    assert other.call("cbd.transport.format", memory=lab.memory, name="pool1", force=True)["info"]["name"] == "pool1"
    lab.node1.start()
    row = wait_until(
        lambda: next((t for t in lab.node1.call("cbd.transport.list") if t["reason"]), None), "node1 says what it found"
    )
    assert "formatted again" in row["reason"]["message"]


def test_a_host_that_was_formatted_away_stops_its_workers(lab, make_host):
    _, device = lab.mapped()
    server = int((lab.node2.runtime / "cbd0.pid").read_text())
    for node in (lab.node1, lab.node2):
        os.kill(node.pid, signal.SIGSTOP)
    try:
        other = make_host("node3")
        other.call("cbd.transport.format", memory=lab.memory, name="pool1", force=True)
    finally:
        for node in (lab.node1, lab.node2):
            os.kill(node.pid, signal.SIGCONT)
    for node in (lab.node1, lab.node2):
        wait_until(lambda seen=node: seen.call("cbd.transport.list")[0]["state"] == "pending", "it notices")
    wait_until(lambda: not _running(server), "the device is gone")
    assert not io_works(device, 0x77)
    assert other.call("cbd.transport.register", memory=lab.memory)["host_id"] == 0


def test_format_options_and_memory_are_checked(lab, shared_file):
    small = str(shared_file(MIB))
    assert "needs" in lab.node1.refuse(Code.RANGE, "cbd.transport.format", memory=small, name="x").message.replace(
        "need ", "needs "
    )
    lab.node1.refuse(Code.INVALID, "cbd.transport.format", memory=small, name="x", ring_depth=48)
    lab.node1.refuse(Code.INVALID, "cbd.transport.format", memory=small, name="x/y")
    lab.node1.refuse(Code.INVALID, "cbd.transport.format", memory=small, name="x", coherence="maybe")
    lab.node1.refuse(Code.NOT_FOUND, "cbd.transport.format", memory="/dev/shm/no-such-memory", name="x")
    lab.node1.refuse(Code.INVALID, "cbd.transport.register", memory=str(lab.folder))
    lab.node1.refuse(Code.NOT_FOUND, "cbd.transport.register", memory=small)
    probe = lab.node1.call("cbd.transport.probe", memory=small)
    assert (probe["formatted"], probe["foreign"], probe["size"]) == (False, False, MIB)


def test_attach_refuses_another_version(lab, shared_file):
    copy = shared_file(MEMORY)
    raw = bytearray(Path(lab.memory).read_bytes()[:8192])
    copy.open("r+b").write(raw)
    os.truncate(copy, MEMORY)
    from cxl_datapath.cbd.metadata import seal

    with copy.open("r+b") as file:
        for offset in (0, 4096):
            file.seek(offset)
            file.write(seal(b"CXTI", 9, b"later", 4096, version=2))
    error = lab.node1.refuse(Code.UNSUPPORTED, "cbd.transport.register", memory=str(copy))
    assert "version 2" in error.message
    error = lab.node1.refuse(Code.EXISTS, "cbd.transport.format", memory=str(copy), name="x")
    assert "version 2" in error.message


def test_register_is_idempotent_and_names_are_unique(lab, shared_file, make_host):
    first = lab.node1.call("cbd.transport.register", memory=lab.memory)
    assert lab.node1.call("cbd.transport.register", memory=lab.memory) == first
    twin = str(shared_file(MEMORY))
    lab.node1.call("cbd.transport.format", memory=twin, name="pool0")
    lab.node1.refuse(Code.EXISTS, "cbd.transport.register", memory=twin)
    lab.node1.refuse(Code.NOT_FOUND, "cbd.transport.unregister", transport="pool7")


def test_a_second_host_of_the_same_name_is_refused(lab, make_host):
    (lab.folder / "again").mkdir()
    twin = Host(lab.folder / "again", "node1")
    twin.runtime = Path(lab.node1.folder.parent / "twin")
    twin.socket = twin.runtime / "control.sock"
    twin.start()
    try:
        error = twin.refuse(Code.EXISTS, "cbd.transport.register", memory=lab.memory)
        assert "--host-name" in error.hint
        wait_until(lambda: _alive(lab.node2, "node1") is True, "node1 goes on")
    finally:
        twin.stop()


def test_backend_errors(lab):
    disk = lab.disk()
    start = {"transport": "pool0", "path": str(disk)}
    lab.node1.refuse(Code.NOT_FOUND, "cbd.backend.start", transport="pool9", path=str(disk))
    lab.node1.refuse(Code.NOT_FOUND, "cbd.backend.start", transport="pool0", path=str(lab.folder / "missing"))
    lab.node1.refuse(Code.INVALID, "cbd.backend.start", transport="pool0", path=str(lab.folder))
    lab.node1.refuse(Code.INVALID, "cbd.backend.start", transport="pool0", path="relative")
    lab.node1.refuse(Code.INVALID, "cbd.backend.start", transport="pool0", path="/dev/null")
    error = lab.node1.refuse(Code.RANGE, "cbd.backend.start", **start, id=16)
    assert "0 to 15" in error.hint
    lab.node1.refuse(Code.INVALID, "cbd.backend.start", **start, id=-1)
    assert lab.node1.call("cbd.backend.list", transport="pool0") == []
    first = lab.node1.call("cbd.backend.start", **start, id=3)
    assert (first["id"], first["capacity"], first["local"], first["worker"]["state"]) == (3, DISK, True, "running")
    assert lab.node1.call("cbd.backend.start", **start)["epoch"] == first["epoch"]
    assert lab.node1.call("cbd.backend.start", **start, id=3)["worker"]["pid"] == first["worker"]["pid"]
    lab.node1.refuse(Code.EXISTS, "cbd.backend.start", **start, id=4)
    lab.node1.refuse(Code.EXISTS, "cbd.backend.start", **start, read_only=True)
    lab.node1.refuse(Code.EXISTS, "cbd.backend.start", transport="pool0", path=str(lab.disk("two")), id=3)
    # The same medium by another host, and an id that another host has.
    error = lab.node2.refuse(Code.BUSY, "cbd.backend.start", **start)
    assert error.object == str(disk)
    lab.node2.refuse(Code.EXISTS, "cbd.backend.start", transport="pool0", path=str(lab.disk("two")), id=3)
    assert "node1" in lab.node2.refuse(Code.DENIED, "cbd.backend.stop", transport="pool0", id=3).message
    lab.node1.refuse(Code.BUSY, "cbd.transport.unregister", transport="pool0")
    assert lab.node1.call("cbd.backend.stop", transport="pool0", id=3)["state"] == "stopped"
    assert "not running" in lab.node1.refuse(Code.NOT_FOUND, "cbd.backend.stop", transport="pool0", id=3).message
    lab.node1.refuse(Code.RANGE, "cbd.backend.stop", transport="pool0", id=16)


def test_blkdev_errors(lab, make_host):
    start = {"transport": "pool0", "backend": 0, "frontend": "nbdkit"}
    lab.node2.refuse(Code.NOT_FOUND, "cbd.blkdev.start", **start)
    lab.node2.refuse(Code.RANGE, "cbd.blkdev.start", **start | {"backend": 99})
    lab.mapped(name="data")
    error = lab.node1.refuse(Code.BUSY, "cbd.backend.stop", transport="pool0", id=0)
    assert "blkdev 0 of host node2" in error.message
    lab.node2.refuse(Code.BUSY, "cbd.transport.unregister", transport="pool0")
    first = lab.node2.call("cbd.blkdev.start", **start)
    assert (first["id"], first["name"], first["worker"]["restarts"]) == (0, "data", 0)
    lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", **start, queues=2)
    lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", **start, name="other")
    third = make_host("node3")
    third.call("cbd.transport.register", memory=lab.memory)
    error = third.refuse(Code.BUSY, "cbd.blkdev.start", **start)
    assert "blkdev 0 of host node2" in error.message
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(lab.disk("two")))
    lab.node2.refuse(Code.EXISTS, "cbd.blkdev.start", **start | {"backend": 1}, name="data")
    lab.node2.refuse(Code.FULL, "cbd.blkdev.start", **start | {"backend": 1}, queues=16, name="wide") if _channels(
        lab
    ) < 17 else None
    assert "node2" in lab.node1.refuse(Code.DENIED, "cbd.blkdev.stop", transport="pool0", id=0).message
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    assert "not running" in lab.node2.refuse(Code.NOT_FOUND, "cbd.blkdev.stop", transport="pool0", id=0).message
    assert third.call("cbd.blkdev.start", **start)["host"] == "node3"


def _channels(lab: Lab) -> int:
    return int(lab.node1.call("cbd.transport.list")[0]["channels"])


def test_a_backend_whose_host_died_is_refused_in_time(lab):
    lab.mapped()
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    lab.node1.kill()
    wait_until(lambda: _alive(lab.node2, "node1") is False, "node2 sees node1 die")
    error = lab.node2.refuse(Code.NOT_READY, "cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")
    assert "node1 is not alive" in error.message


def test_a_dead_users_hold_ends_with_a_restart_of_the_backend(lab, make_host):
    disk, _ = lab.mapped()
    third = make_host("node3")
    third.call("cbd.transport.register", memory=lab.memory)
    lab.node2.kill()
    wait_until(lambda: _alive(lab.node1, "node2") is False, "node1 sees node2 die")
    wait_until(lambda: _alive(third, "node2") is False, "node3 sees node2 die")
    third.refuse(Code.BUSY, "cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")
    lab.node1.call("cbd.backend.stop", transport="pool0", id=0)
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk))
    device = third.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"]
    assert io_works(device, 0x81)


@pytest.fixture
def connected(lab) -> Iterator[subprocess.Popen[str]]:
    """A client of the device that has written 4 KiB and stays connected."""
    _, device = lab.mapped()
    client = subprocess.Popen(["qemu-io", "-f", "raw", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write("write -P 7 0 4k\n")
    client.stdin.flush()
    while "4 KiB" not in client.stdout.readline():
        assert client.poll() is None
    yield client
    client.kill()
    client.wait()


def test_a_device_in_use_is_not_stopped(lab, connected):
    error = lab.node2.refuse(Code.BUSY, "cbd.blkdev.stop", transport="pool0", id=0)
    assert "connected" in error.message
    assert lab.node2.worker("blkdev", "pool0", 0)["state"] == "running"
    out, _ = connected.communicate("read -P 7 0 4k\nquit\n", timeout=30)
    assert "read 4096/4096" in out
    wait_until(lambda: _stopped(lab), "it stops once the client is gone")


@pytest.mark.parametrize("kind", ["worker", "daemon"])
def test_a_kill_under_a_connected_client_ends_the_old_server_first(lab, connected, kind):
    server = int((lab.node2.runtime / "cbd0.pid").read_text())
    if kind == "worker":
        lab.node2.kill_worker("blkdev", "pool0", 0)
    else:
        lab.node2.kill()
        lab.node2.start()
    wait_until(lambda: not _running(server), "the old server is gone")
    wait_until(lambda: (now := lab.node2.worker("blkdev", "pool0", 0))["state"] == "running" and now["pid"], "a new one runs")
    assert io_works(f"nbd+unix:///?socket={lab.node2.runtime}/cbd0.sock", 0x91)


def test_a_daemon_stops_in_time_under_a_connected_client(lab, connected):
    lab.node2.stop()
    assert not Path(lab.node2.runtime / "cbd0.sock").exists()


def _stopped(lab: Lab) -> bool:
    from cxl_datapath.errors import DatapathError

    try:
        return lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)["state"] == "stopped"
    except DatapathError as error:
        assert error.code == Code.BUSY
        return False


def test_front_ends_that_the_kernel_lacks_say_so_and_auto_finds_one(lab):
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(lab.disk()))
    loadable = (
        shutil.which("modprobe")
        and subprocess.run(["modprobe", "-n", "ublk_drv"], capture_output=True, check=False).returncode == 0
    )
    has_ublk = loadable or Path("/dev/ublk-control").exists()
    if not has_ublk:
        error = lab.node2.refuse(Code.UNSUPPORTED, "cbd.blkdev.start", transport="pool0", backend=0, frontend="ublk")
        assert "ublk_drv" in error.message
        assert lab.node2.call("cbd.blkdev.list", transport="pool0") == []
    started = lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="auto")
    assert started["frontend"] in ("ublk", "nbd", "nbdkit")
    assert lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="auto")["id"] == started["id"]


# ---- for people


def test_the_command_line(lab):
    disk = lab.disk()
    assert "pool0" in lab.node1.cli("cbd", "transport", "list").stdout
    started = lab.node1.cli("cbd", "backend", "start", "pool0", str(disk), "--json")
    assert json.loads(started.stdout)["path"] == str(disk)
    shown = lab.node2.cli("cbd", "blkdev", "start", "pool0", "0", "--frontend", "nbdkit", "--name", "data").stdout
    assert "nbd+unix:///" in shown
    assert "data" in shown
    status = lab.node2.cli("status").stdout
    assert "hosts of pool0" in status
    assert "16M" in status
    assert json.loads(lab.node2.cli("--json", "status").stdout)["transports"][0]["blkdev_list"][0]["name"] == "data"
    wrong = lab.node1.cli("cbd", "backend", "stop", "pool0", "0")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == "cxl-datapath: backend 0: is used by blkdev 0 of host node2; stop the blkdev(s) first\n"
    gone = lab.node1.cli("--runtime", str(lab.folder), "hello")
    assert gone.returncode == 1
    assert "is cxl-datapathd running?" in gone.stderr
    assert lab.node2.cli("cbd", "blkdev", "stop", "pool0", "0").returncode == 0
