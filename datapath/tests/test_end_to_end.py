# SPDX-License-Identifier: GPL-3.0-or-later
"""Two real hosts over one memory: a file of node1 is a block device of node2, by way of real NBD clients."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from hosts import wait_until
from lab import DISK, MEMORY, MIB, Lab, alive, io_works, needs_nbd, qemu_io, socket_of

from cxl_datapath.errors import Code

pytestmark = needs_nbd


@pytest.mark.parametrize("queues", [1, 4])
def test_bytes_arrive_on_the_backend_and_come_back(lab, tmp_path, queues):
    disk, device = lab.mapped(queues=queues)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(DISK))
    subprocess.run(["nbdcopy", source, device], check=True, timeout=60)
    assert disk.read_bytes() == source.read_bytes()
    subprocess.run(["nbdcopy", device, tmp_path / "copy"], check=True, timeout=60)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_what_was_stopped_leaves_no_file_and_its_socket_was_its_owners(lab):
    _, device = lab.mapped()
    assert stat.S_IMODE(socket_of(device).stat().st_mode) == 0o600
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    lab.node1.call("cbd.backend.stop", transport="pool0", id=0)
    left = [path.name for node in (lab.node1, lab.node2) for path in node.runtime.iterdir()]
    assert sorted(left) == ["control.sock", "control.sock", "lock", "lock", "lun.sock", "lun.sock"]


def test_a_path_is_shown_as_everybody_writes_it(lab):
    disk = lab.disk()
    roundabout = f"{disk.parent}/.//./{disk.name}"
    assert lab.node1.call("cbd.backend.start", transport="pool0", path=roundabout)["path"] == str(disk)
    assert lab.node1.call("cbd.backend.stop", transport="pool0", id=f"/{roundabout}")["state"] == "stopped"


def test_the_command_line_speaks_of_its_own_options(lab):
    lab.mapped()
    for words, said in (
        (["cbd", "transport", "format", f"{lab.memory}", "pool1", "--lease-ms", "5"], "--lease-ms: 5 is not possible; choose "),
        (["cbd", "blkdev", "start", "pool0", "0", "--name", "x"], "or use --read-only here, or start all of them with --shared"),
        (["cbd", "blkdev", "stop", "pool0", "--", "-5"], "id: -5 is not possible; choose 0 to 1023"),
        (["cbd", "blkdev", "clear", "pool0", "cbd0"], "a blkdev has its name on its own host only, elsewhere give the id; see: "),
    ):
        error = lab.node1.cli(*words).stderr
        assert said in error, error
    shown = lab.node1.cli("cbd", "transport", "register", lab.memory).stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["NAME", "pool0"]


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
    server = {"type": "unix", "path": str(socket_of(device))}
    unmapping = {"driver": "raw", "discard": "unmap", "file": {"driver": "nbd", "server": server}}
    assert qemu_io(f"json:{json.dumps(unmapping)}", "discard 0 4M").returncode == 0
    assert disk.stat().st_blocks < before


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
        assert not socket_of(device).exists()
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
    assert "playbooks/datapath.yml" in gone.stderr
    assert lab.node2.cli("cbd", "blkdev", "stop", "pool0", "0").returncode == 0


def test_every_verb_takes_what_the_list_shows(lab, make_host):
    """Hosts and blkdevs by name, backends by path; a path that several hosts have needs the id, unless one's own is meant."""
    disk, other = str(lab.disk()), str(lab.disk("other"))
    assert lab.node1.cli("cbd", "backend", "start", "pool0", disk).returncode == 0
    assert lab.node1.cli("cbd", "backend", "start", "pool0", other).returncode == 0
    start = ("cbd", "blkdev", "start", "pool0", disk, "--frontend", "nbdkit", "--name", "data")
    assert lab.node2.cli(*start).returncode == lab.node2.cli(*start).returncode == 0
    wrong = lab.node2.cli("cbd", "blkdev", "stop", "pool0", "dato")
    assert wrong.stderr.endswith("blkdev dato: is not in transport pool0; see: cxl-datapath cbd blkdev list pool0\n")
    assert "is used by blkdev 0" in lab.node1.cli("cbd", "backend", "stop", "pool0", disk).stderr
    assert "belongs to host node1" in lab.node2.cli("cbd", "backend", "stop", "pool0", other).stderr
    assert lab.node2.cli("cbd", "blkdev", "stop", "pool0", "data").returncode == 0
    Path(other).rename(f"{other}.moved")  # as if node2 were another machine: the same path, another file
    assert lab.node2.cli("cbd", "backend", "start", "pool0", str(lab.disk("other"))).returncode == 0
    both = lab.node2.cli("cbd", "blkdev", "start", "pool0", other)
    assert "can be backend 1 of host node1, backend 2 of host node2; give the id" in both.stderr
    assert lab.node1.cli("cbd", "backend", "stop", "pool0", other).returncode == 0
    assert "its host node1 is alive" in lab.node2.cli("cbd", "backend", "clear", "pool0", disk).stderr
    lab.node1.kill()
    wait_until(lambda: alive(lab.node2, "node1") is False, "node1 is dead")
    assert lab.node2.cli("cbd", "backend", "recover", "pool0", disk).returncode == 0
    assert "node1" in lab.node2.cli("cbd", "host", "clear", "pool0", "node1").stdout
    assert "host node1: is not in" in lab.node2.cli("cbd", "host", "clear", "pool0", "node1").stderr
