# SPDX-License-Identifier: GPL-3.0-or-later
"""Real hosts whose processes are killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import wait_until
from lab import MIB, alive, children, io_works, needs_nbd, running, stopped, was_looked_for
from mishaps import halt

from cxl_datapath.cbd.lines import BACKEND_LINE_OFF, BLKDEV_LINE_OFF, LINE
from cxl_datapath.cbd.registry import Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import Code
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

pytestmark = needs_nbd


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
    before = lab.node2.worker("blkdev", "pool0", 0)
    assert io_works(device, 0x52), "the client waits for the new channels, and nothing fails"
    after = lab.node2.worker("blkdev", "pool0", 0)
    assert (after["pid"], after["restarts"]) == (before["pid"], 0)
    assert after["info"]["epoch"] > before["info"]["epoch"] or before["info"]["path_state"] != "serving"


def test_a_blkdev_whose_channel_lines_were_lost_takes_the_channel_again(lab):
    _, device = lab.mapped()
    assert io_works(device, 0x53)
    with Mapping(resolve(lab.memory)) as mapping:
        registry = Registry(mapping, attach(mapping, lab.memory))
        start = registry.info.geometry.channel_off(0)
        (before,) = registry.blkdevs.used().values()
        for line in (BLKDEV_LINE_OFF, BACKEND_LINE_OFF):
            mapping.write(start + line, bytes(LINE))
        wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["restarts"] >= 1, "the blkdev notices")
        wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "the blkdev runs again")
        (after,) = registry.blkdevs.used().values()
    assert after.channels == before.channels
    assert after.channel_epochs[0] > before.channel_epochs[0]
    assert io_works(device, 0x54)


def test_a_killed_nbd_server_comes_back(lab):
    _, device = lab.mapped()
    pid = int((lab.node2.runtime / "cbd0.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["restarts"] == 1, "the worker notices")
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "it runs again")
    assert io_works(device, 0x61)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_daemon_leaves_no_process_behind_and_rebuilds_everything(lab, how):
    disk, device = lab.mapped(queues=2)
    assert io_works(device, 0x71)
    for node in (lab.node2, lab.node1):
        processes = children(node.pid)
        assert processes
        getattr(node, how)()
        wait_until(lambda gone=processes: not any(map(running, gone)), "all children end")
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
    wait_until(lambda: alive(lab.node2, "node1") is False, "node2 sees node1 die")
    assert lab.node2.worker("blkdev", "pool0", 0)["info"]["path_state"] == "paused"
    lab.node1.start()
    assert io_works(device, 0x73)
    assert lab.node2.worker("blkdev", "pool0", 0)["restarts"] == 0


def test_liveness_is_seen_by_the_others(lab):
    wait_until(lambda: alive(lab.node1, "node2") is True, "node1 sees node2 alive")
    assert alive(lab.node2, "node2") is True
    lab.node2.kill()
    wait_until(lambda: alive(lab.node1, "node2") is False, "node1 sees node2 dead")
    lab.node2.start()
    wait_until(lambda: alive(lab.node1, "node2") is True, "node1 sees node2 alive again")


def test_a_missing_memory_is_waited_for_with_the_reason_in_view(lab):
    lab.mapped()
    lab.node2.stop()
    hidden = Path(lab.memory + ".hidden")
    Path(lab.memory).rename(hidden)
    try:
        lab.node2.start()
        (row,) = wait_until(lambda: [t for t in lab.node2.call("cbd.transport.list") if was_looked_for(t)], "the reason is shown")
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


def test_a_folder_in_place_of_the_socket_is_named(make_host):
    host = make_host("node1", start=False)
    host.socket.mkdir(parents=True)
    done = subprocess.run(host.command(), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"cxl-datapathd: {host.socket}: cannot replace it: Is a directory; move it away\n",
    )


def test_a_daemon_that_stops_in_the_middle_of_a_start_logs_no_traceback(lab):
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(lab.disk()))
    mute = lab.node1.worker("backend", "pool0", 0)["pid"]
    halt(mute)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(lab.node2.socket))
            params = b'{"transport": "pool0", "backend": 0, "frontend": "nbdkit"}'
            client.sendall(b'{"id": 1, "method": "cbd.blkdev.start", "params": ' + params + b"}\n")
            wait_until(
                lambda: [row for row in lab.node1.call("cbd.blkdev.list", transport="pool0") if row["state"] == "running"],
                "the worker waits for the backend",
            )
            lab.node2.stop()
    finally:
        os.kill(mute, signal.SIGCONT)
    assert "Traceback" not in lab.node2.log.read_text()


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
    wait_until(lambda: stopped(lab.node2), "it stops once the client is gone")


@pytest.mark.parametrize("kind", ["worker", "daemon"])
def test_a_kill_under_a_connected_client_ends_the_old_server_first(lab, connected, kind):
    server = int((lab.node2.runtime / "cbd0.pid").read_text())
    if kind == "worker":
        lab.node2.kill_worker("blkdev", "pool0", 0)
    else:
        lab.node2.kill()
        lab.node2.start()
    wait_until(lambda: not running(server), "the old server is gone")
    wait_until(lambda: (now := lab.node2.worker("blkdev", "pool0", 0))["state"] == "running" and now["pid"], "a new one runs")
    assert io_works(f"nbd+unix:///?socket={lab.node2.runtime}/cbd0.sock", 0x91)


def test_a_daemon_stops_in_time_under_a_connected_client(lab, connected):
    lab.node2.stop()
    assert not Path(lab.node2.runtime / "cbd0.sock").exists()
