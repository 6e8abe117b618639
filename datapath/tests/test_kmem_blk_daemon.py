# SPDX-License-Identifier: GPL-3.0-or-later
"""Pools in a real daemon: the block volume through NBD, restarts and kills, leases, growth, and CBD on top."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Host, wait_until
from lab import LEASE_MS, MIB, io_works, needs_nbd, qemu_io, socket_of

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk.attached import AttachedVolume
from cxl_datapath.kmem_blk.client import PoolClient

SIZE = 16 * MIB
PAGES = SIZE // 4096

pytestmark = needs_nbd


@pytest.fixture
def memory(shared_file: Callable[[int], Path]) -> str:
    return str(shared_file(SIZE))


@pytest.fixture
def host(make_host: Callable[..., Host], memory: str) -> Host:
    return with_pool(make_host("node1"), memory, lease_limit=256, recall_ms=1000)


def with_pool(host: Host, memory: str, **limits: int) -> Host:
    """A host with pool0, started."""
    host.call("kmem_blk.pool.format", memory=memory, name="pool0")
    host.call("kmem_blk.pool.start", memories=[memory], **limits)
    return host


def pool(host: Host) -> dict:
    (row,) = host.call("kmem_blk.pool.list")
    return row


def pages(host: Host) -> dict:
    return wait_until(lambda: pool(host).get("pages"), "the pool answers")


def volume(host: Host, **params: object) -> str:
    return host.call("kmem_blk.volume.start", pool="pool0", frontend="nbdkit", **params)["volume"]["device"]


def client(host: Host) -> PoolClient:
    return PoolClient(host.runtime / "pool0.pool")


def stop_volume(host: Host) -> None:
    def gone() -> bool:
        try:
            return host.call("kmem_blk.volume.stop", pool="pool0")["volume"] is None
        except DatapathError as error:
            assert error.code == Code.BUSY
            return False

    wait_until(gone, "the client left")


def test_format_start_and_refusals(host, memory):
    probed = host.call("kmem_blk.pool.probe", memory=memory)
    assert probed["formatted"] and probed["info"]["name"] == "pool0"
    assert host.refuse(Code.BUSY, "kmem_blk.pool.format", memory=memory, name="other", force=True).hint
    assert host.refuse(Code.BUSY, "cbd.transport.format", memory=memory, name="t", force=True)
    assert host.refuse(Code.NOT_FOUND, "kmem_blk.pool.stop", pool="pool1")
    row = host.call("kmem_blk.pool.start", memories=[memory], lease_limit=256, recall_ms=1000, reserve=7)
    assert row["state"] == "running" and row["pages"]["reserve"] == 7
    assert host.refuse(Code.EXISTS, "kmem_blk.pool.start", memories=[memory], recall_ms=2000)
    checked = host.cli("kmem-blk", "check", memory)
    assert checked.returncode == 1 and "is open" in checked.stderr
    assert host.call("kmem_blk.pool.stop", pool="pool0")["state"] == "stopped"
    assert host.refuse(Code.EXISTS, "kmem_blk.pool.format", memory=memory, name="other")
    checked = host.cli("kmem-blk", "check", memory)
    assert (checked.returncode, "clean: yes" in checked.stdout) == (0, True), checked
    assert json.loads(host.cli("kmem-blk", "check", memory, "--json").stdout)["problems"] == []
    assert host.call("kmem_blk.pool.list") == []


def test_blocks_survive_every_kind_of_end(host):
    device = volume(host)
    assert io_works(device, 0x51)
    assert pages(host)["blocks"] == 16
    assert "rror" not in qemu_io(device, "discard 1M 32k").stdout
    assert pages(host)["blocks"] == 8
    os.kill(pool(host)["volume"]["worker"]["pid"], signal.SIGKILL)
    wait_until(lambda: io_works(device, 0x52), "the volume's worker came back")
    host.stop()
    host.start()
    wait_until(lambda: pool(host)["volume"] and pool(host)["volume"]["worker"]["state"] == "running", "it is rebuilt")
    done = qemu_io(device, "read -P 0x52 1M 64k")
    assert done.returncode == 0 and "failed" not in done.stdout, done
    stop_volume(host)
    assert pages(host)["blocks"] == 16


def test_a_killed_pool_process_costs_nothing(host):
    device = volume(host)
    pid = host.call("kmem_blk.pool.list")[0]["attached"][0]["pid"]
    assert pid == pool(host)["volume"]["worker"]["pid"]
    writer = subprocess.Popen(["qemu-io", "-f", "raw", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdin is not None and writer.stdout is not None
    writer.stdin.write("write -P 0x61 0 256k\n")
    writer.stdin.flush()
    wait_until(lambda: pages(host)["blocks"] == 64, "the first write is there")
    (killed,) = pool_worker_pids(host)
    os.kill(killed, signal.SIGKILL)
    writer.stdin.write("write -P 0x62 256k 256k\nread -P 0x61 0 256k\nread -P 0x62 256k 256k\nquit\n")
    writer.stdin.flush()
    said = writer.communicate(timeout=60)[0]
    assert "rror" not in said and "failed" not in said and said.count("262144/262144") == 4, said
    assert pool_worker_pids(host) != [killed]
    assert pages(host)["blocks"] == 128


def pool_worker_pids(host: Host) -> list[int]:
    found = []
    for line in subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        pid, parent, command = line.split(maxsplit=2)
        if command.endswith("cxl_datapath.worker pool") and int(parent) == host.pid:
            found.append(int(pid))
    return found


def test_leases_are_memory_that_comes_back(host):
    with client(host) as program:
        lease = program.lease(256)
        memory = lease.map()
        memory[:5] = b"hello"
        memory[256 * 4096 - 1] = 1
        assert pages(host)["leases"] == 256
        assert host.call("kmem_blk.lease.list", pool="pool0")[0]["pages"] == 256
        with pytest.raises(DatapathError) as caught:
            program.lease(1)
        assert caught.value.code == Code.DENIED
        with pytest.raises(OSError):
            os.ftruncate(lease.fd, 1 << 30)  # sealed
        memory.close()
        lease.release()
        assert pages(host)["leases"] == 0
        program.lease(16)
    wait_until(lambda: pages(host)["leases"] == 0, "a client that went has none")


HOLDER = """
import sys, time
from pathlib import Path
from cxl_datapath.kmem_blk.client import PoolClient
client = PoolClient(Path(sys.argv[1]))
lease = client.lease(int(sys.argv[2]))
memory = lease.map()
memory[0] = 1
print("leased", flush=True)
if sys.argv[3] == "polite":
    assert client.recalls(30.0)[0]["lease"] == lease.id
    memory.close()
    lease.release()
    print("released", flush=True)
time.sleep(60)
memory[0] = 2
"""


@pytest.mark.parametrize("manners", ["polite", "deaf"])
def test_blocks_get_leased_pages_back(host, manners):
    """All of the pool is leased or used; a write recalls, and takes what it does not get."""
    host.call("kmem_blk.pool.start", memories=pool(host)["memories"], lease_limit=PAGES, recall_ms=1000)
    free = pages(host)["available"]
    command = [sys.executable, "-c", HOLDER, str(host.runtime / "pool0.pool"), str(free), manners]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "leased\n"
        assert pages(host)["available"] == 0
        device = volume(host)
        assert io_works(device, 0x33)
        assert pages(host)["blocks"] == 16
        if manners == "polite":
            assert holder.stdout.readline() == "released\n"
        assert pages(host)["leases"] == 0
    finally:
        holder.kill()
        holder.wait()


def locked(pid: int, path: str) -> tuple[int, int, int]:
    """Of what a process has mapped of a file: bytes, those in memory, those that stay there."""
    names = ("Size", "Rss", "Locked")
    sums = dict.fromkeys(names, 0)
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(":")
        if "-" in name.split()[0]:
            inside = line.endswith(path)
        elif inside and name in sums:
            sums[name] += int(rest.split()[0]) << 10
    return sums["Size"], sums["Rss"], sums["Locked"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_memory_with_swap_in_it_is_never_swapped_out(host, memory, shared_file, tmp_path):
    """A page of a file in memory that nobody had touched went to the swap of its own pool; who needed it then waited for ever."""
    size = Path(memory).stat().st_size
    (worker,) = pool_worker_pids(host)
    assert locked(worker, memory)[2] == 0
    with client(host) as asking:
        asking.call("swap_make", blocks=256)
    volume = AttachedVolume(host.runtime, "pool0", "swap", 1, tmp_path / "s.channels")
    assert locked(worker, memory) == (size, size, size)
    assert locked(worker, "pool0.swap-index")[1:] == (2 * 4096, 2 * 4096)
    more = str(shared_file(4 << 20))
    host.call("kmem_blk.pool.grow", pool="pool0", memory=more)
    assert locked(worker, more) == (4 << 20,) * 3
    (there,) = [line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if line.startswith("VmRSS")]
    assert int(there.split()[1]) << 10 < size + (4 << 20) + (64 << 20), "and the process has become no giant by that"
    volume.close()
    wait_until(lambda: not pool(host)["attached"], "it is gone")
    with client(host) as asking:
        asking.call("swap_drop")


def test_grow_and_shrink(host, memory, shared_file):
    more = str(shared_file(SIZE))
    before = pages(host)
    grown = host.call("kmem_blk.pool.grow", pool="pool0", memory=more)
    assert grown["pages"]["available"] == before["available"] + PAGES - 1
    assert host.refuse(Code.INVALID, "kmem_blk.pool.shrink", pool="pool0", memory=memory)
    assert host.refuse(Code.BUSY, "cbd.transport.format", memory=more, name="t", force=True)
    host.stop()
    host.start()
    wait_until(lambda: pool(host)["state"] == "running", "it is rebuilt with both memories")
    assert pages(host)["pages"] == before["pages"] + PAGES
    assert host.call("kmem_blk.pool.shrink", pool="pool0", memory=more)["pages"] == before
    assert not host.call("kmem_blk.pool.probe", memory=more)["foreign"]
    foreign = shared_file(4 * MIB)
    foreign.write_bytes(b"XFSB" + bytes(4 * MIB - 4))
    assert host.refuse(Code.EXISTS, "kmem_blk.pool.grow", pool="pool0", memory=str(foreign))
    assert pool(host)["memories"] == [memory]


def test_a_pool_without_one_of_its_memories_does_not_start(host, memory, shared_file):
    more = shared_file(4 * MIB)
    host.call("kmem_blk.pool.grow", pool="pool0", memory=str(more))
    host.call("kmem_blk.pool.stop", pool="pool0")
    assert "ranges are missing" in host.refuse(Code.NOT_FOUND, "kmem_blk.pool.start", memories=[memory]).message
    assert host.call("kmem_blk.pool.list") == []
    assert host.call("kmem_blk.pool.start", memories=[memory, str(more)])["state"] == "running"


@pytest.mark.skipif(shutil.which("fio") is None, reason="needs fio")
def test_discards_beside_verified_writes(host):
    """Four jobs of fio at a time. Each does one thing after the other: a trim and a write in flight together have no order."""
    device = volume(host, queues=2)
    common = ["fio", "--name=mix", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={socket_of(device)}", "--output-format=json"]
    job = [
        "--rw=randtrimwrite",
        "--bs=8k",
        "--iodepth=1",
        "--numjobs=4",
        "--size=1M",
        "--offset_increment=1M",
        "--group_reporting",
    ]
    verify = ["--verify=crc32c", "--do_verify=1", "--verify_state_save=0"]
    done = subprocess.run([*common, *job, *verify], capture_output=True, text=True, timeout=120, check=False)
    if "nbd: not found" in done.stderr or "not loadable" in done.stderr:
        pytest.skip("this fio has no nbd engine")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    (result,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    assert result["error"] == 0 and result["trim"]["total_ios"] > 0 and result["write"]["total_ios"] > 0
    stop_volume(host)
    memory = pool(host)["memories"][0]
    host.call("kmem_blk.pool.stop", pool="pool0")
    checked = host.cli("kmem-blk", "check", memory)
    assert checked.returncode == 0, checked


def test_a_remote_host_uses_the_pool(host, make_host, shared_file):
    """`kmem_blk:pool0` as a backend, and the pool's process killed under it."""
    shared = str(shared_file(64 * MIB))
    other = make_host("node2")
    host.call("cbd.transport.format", memory=shared, name="t0", ring_depth=16, lease_ms=LEASE_MS)
    for each in (host, other):
        each.call("cbd.transport.register", memory=shared)
    started = host.call("cbd.backend.start", transport="t0", path="kmem_blk:pool0")
    row = pool(host)
    assert started["capacity"] == row.get("capacity") and started["path"] == "kmem_blk:pool0", row
    device = other.call("cbd.blkdev.start", transport="t0", backend=0, frontend="nbdkit")["device"]
    assert io_works(device, 0x71)
    assert pages(host)["blocks"] == 16
    assert host.refuse(Code.BUSY, "kmem_blk.pool.stop", pool="pool0")
    (killed,) = pool_worker_pids(host)
    os.kill(killed, signal.SIGKILL)
    assert io_works(device, 0x72)
    done = qemu_io(device, "discard 1M 64k")
    assert "rror" not in done.stdout
    assert pages(host)["blocks"] == 0


def test_swap_needs_a_block_device(host):
    error = (
        host.refuse(Code.UNSUPPORTED, "kmem_blk.swap.start", pool="pool0", size=4 * MIB)
        if not Path("/dev/ublk-control").exists()
        else None
    )
    assert error is None or "ublk" in str(error)
    assert pool(host)["swap"] is None
