# SPDX-License-Identifier: GPL-3.0-or-later
"""The pool socket and what is behind it, in this process: hostile clients, leases of both kinds, recall, swap across restarts."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hosts import wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk import connections, volatile
from cxl_datapath.kmem_blk import leases as lease_module
from cxl_datapath.kmem_blk.attached import AttachedVolume
from cxl_datapath.kmem_blk.client import PoolClient
from cxl_datapath.kmem_blk.format import plan_format, write_format
from cxl_datapath.kmem_blk.layout import PAGE
from cxl_datapath.kmem_blk.leases import Leases, mappers
from cxl_datapath.kmem_blk.pool import LEASE_RUN_DEVDAX, Pool
from cxl_datapath.kmem_blk.server import PoolServer
from cxl_datapath.kmem_blk.swap import check_frontend, is_on, switch_off, switch_on
from cxl_datapath.kmem_blk.wire import pool_socket
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import Memory

SIZE = 8 << 20
NOBODY = 65534


class Served:
    """A pool in this process behind its socket."""

    def __init__(self, memory: Memory, runtime: Path, stack: ExitStack, recall_s: float = 0.2) -> None:
        self.runtime = runtime
        event = os.eventfd(0, os.EFD_CLOEXEC)
        self.pool = Pool([memory], 0, 2000, event, runtime)
        self.leases = Leases(self.pool, 1024)
        self.path = pool_socket(runtime, "pool0")
        group = NOBODY if os.geteuid() == 0 else None
        self.server = PoolServer(self.pool, self.leases, self.path, group=group, recall_s=recall_s, event_fd=event)
        self.server.start()
        stack.callback(self.stop)

    def stop(self) -> None:
        self.server.close()
        for each in self.pool.ranges:
            each.close()
        self.pool.ranges.clear()

    def client(self) -> PoolClient:
        return PoolClient(self.path, timeout=20)

    def used(self, who: str) -> int:
        return self.pool.pages.counts()[who]


@pytest.fixture
def runtime() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="cxlt-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def memory(shared_file: Callable[[int], Path]) -> Memory:
    made = Memory("memory", str(shared_file(SIZE)), SIZE, "file")
    with Mapping(made) as mapping:
        write_format(mapping, plan_format(SIZE, "pool0"))
    return made


@pytest.fixture
def served(memory: Memory, runtime: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(memory, runtime, stack)


@contextmanager
def mapper(path: str, offset: int, length: int) -> Iterator[subprocess.Popen[str]]:
    """A process that maps a part of a file."""
    program = "import mmap,os,sys; f=os.open(sys.argv[1],os.O_RDWR); m=mmap.mmap(f,int(sys.argv[3]),offset=int(sys.argv[2]))"
    command = [sys.executable, "-c", f"{program}; print('mapped', flush=True); sys.stdin.readline()"]
    with subprocess.Popen(
        [*command, path, str(offset), str(length)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "mapped\n"
        try:
            yield process
        finally:
            process.kill()


# ---- the socket -------------------------------------------------------------------------------------------------------


def raw(served: Served) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(20)
    link.connect(str(served.path))
    return link


@given(
    data=st.binary(min_size=1, max_size=200)
    | st.builds(
        lambda v: json.dumps(v).encode(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["op", "pages", "id", "queues", "memory", "x"]),
                    inner | st.sampled_from(["lease", "release", "attach", "set", "status", "grow"]),
                    max_size=4,
                )
            ),
        ),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_any_packet_gets_an_answer(served, data):
    with raw(served) as link:
        link.send(data)
        answer = json.loads(link.recv(1 << 16))
    assert set(answer) in ({"error"}, {"result"})


GONE = Memory("/dev/shm/cxl-test-gone", "/dev/shm/cxl-test-gone", 1 << 20, "file").to_json()


@pytest.mark.parametrize(
    ("op", "params", "code"),
    [
        ("fly", {}, Code.INVALID),
        ("lease", {"pages": 0}, Code.INVALID),
        ("lease", {"pages": 2000}, Code.DENIED),
        ("lease", {"pages": 1, "more": 1}, Code.INVALID),
        ("release", {"id": 7}, Code.NOT_FOUND),
        ("attach", {"volume": "blocks", "queues": 1, "epoch": 1}, Code.INVALID),
        ("attach", {"volume": "swap", "queues": 1, "epoch": 1}, Code.NOT_FOUND),
        ("grow", {"memory": GONE}, Code.NOT_FOUND),
        ("grow", {"memory": GONE["path"]}, Code.INVALID),
        ("grow", {"memory": {**GONE, "size": None}}, Code.INVALID),
        ("shrink", {"memory": "/elsewhere"}, Code.NOT_FOUND),
        ("shrink", {"memory": "relative"}, Code.INVALID),
    ],
)
def test_what_is_refused(served, op, params, code):
    with served.client() as client, pytest.raises(DatapathError) as caught:
        client.call(op, **params)
    assert caught.value.code == code


def test_descriptors_of_refused_packets_are_closed(served):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with raw(served) as link, tempfile.TemporaryFile() as file:
        for data in (b"[]", b"{", b'{"op": "status"}', b'{"op": "attach", "volume": "blocks", "queues": 1, "epoch": 1}'):
            socket.send_fds(link, [data], [file.fileno()] * 3)
            link.recv(1 << 16)
        # This process has both ends.
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 3
    with served.client() as client:
        assert client.call("status")["name"] == "pool0"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_a_guest_may_lease_and_nothing_else(served):
    program = (
        "import sys; from pathlib import Path; from cxl_datapath.kmem_blk.client import PoolClient\n"
        "from cxl_datapath.errors import DatapathError\n"
        "client = PoolClient(Path(sys.argv[1]))\n"
        "lease = client.lease(4); lease.map()[0] = 1; print('leased')\n"
        "tries = {'set': dict(reserve=0, lease_limit=9), 'swap_make': dict(blocks=64), 'shrink': dict(memory='/x')}\n"
        "for op, params in tries.items():\n"
        "    try: client.call(op, **params)\n"
        "    except DatapathError as error: print(error.code)\n"
    )
    core = Path(os.environ["CXL_CORE_LIBRARY"])
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c", program]
    with ExitStack() as stack:
        # Its own copy: a user without rights cannot look into root's cache.
        copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxlt-")))
        copy.chmod(0o755)
        shutil.copytree(Path(lease_module.__file__).parents[1], copy / "cxl_datapath")
        shutil.copy(core, copy / core.name)
        environment = {"PYTHONPATH": str(copy), "CXL_CORE_LIBRARY": str(copy / core.name), "PATH": os.environ["PATH"]}
        command[command.index(sys.executable)] = "/usr/bin/python3"
        done = subprocess.run([*command, str(served.path)], env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout.split() == ["leased", "denied", "denied", "denied"], done.stderr
    assert served.path.stat().st_mode & 0o777 == 0o660
    wait_until(lambda: served.used("leases") == 0, "its lease is back")


# ---- volumes ----------------------------------------------------------------------------------------------------------


def test_a_volume_is_attached_again_after_a_restart(memory, runtime):
    with ExitStack() as stack:
        first = Served(memory, runtime, stack)
        volume = AttachedVolume(runtime, "pool0", "blocks", 2, runtime / "v.channels")
        stack.callback(volume.close)
        assert volume.capacity == first.pool.superblock.num_index_entries * PAGE and volume.block_size == PAGE
        assert volume.events() == [] and [conf.epoch for conf in volume.confs()] == [1, 1]
        first.stop()
        wait_until(lambda: volume.events() is None, "it sees the end")
        with pytest.raises(DatapathError):
            volume.attach_again()
        assert volume.events() is None
        second = Served(memory, runtime, stack)
        confs = volume.attach_again()
        assert [conf.epoch for conf in confs] == [3, 3] and volume.events() == []
        assert [c["volume"] for c in second.client().call("status")["attached"]] == ["blocks"]


def test_swap_outlives_its_process_but_not_the_boot(memory, runtime, monkeypatch):
    with ExitStack() as stack:
        served = Served(memory, runtime, stack)
        with served.client() as client:
            client.call("swap_make", blocks=128)
            client.call("swap_make", blocks=128)
            with pytest.raises(DatapathError) as caught:
                client.call("swap_make", blocks=64)
            assert caught.value.code == Code.EXISTS
        served.pool.swap.write(3 * PAGE, b"\x77" * PAGE)
        served.stop()
        again = Served(memory, runtime, stack)
        assert again.used("swap") == 1 and again.pool.swap.read(3 * PAGE, PAGE) == b"\x77" * PAGE
        again.stop()
        monkeypatch.setattr(volatile, "boot_id", lambda: b"another boot....")
        after = Served(memory, runtime, stack)
        assert after.pool.swap is None and after.used("swap") == 0
        assert not list(runtime.glob("*.swap-index"))


@pytest.fixture
def unlocked() -> Iterator[None]:
    """This process serves swap, and may be swapped out again afterwards."""
    yield
    ctypes.CDLL(None).munlockall()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.usefixtures("unlocked")
def test_swap_is_dropped_when_nobody_has_it(served, runtime):
    with served.client() as client:
        client.call("swap_make", blocks=128)
        served.pool.swap.write(0, b"\x11" * PAGE)
        volume = AttachedVolume(runtime, "pool0", "swap", 1, runtime / "s.channels")
        with pytest.raises(DatapathError) as caught:
            client.call("swap_drop")
        assert caught.value.code == Code.BUSY
        volume.close()
        wait_until(lambda: not client.call("status")["attached"], "it is gone")
        client.call("swap_drop")
        assert served.used("swap") == 0 and served.pool.swap is None


# ---- leases -------------------------------------------------------------------------------------------------------------


def test_leased_memory_moves_from_the_pool_to_the_client(served, memory):
    """The file of the pool shrinks by what the client can use."""
    volume = served.pool.blocks
    for block in range(0, 1792, 256):
        volume.write(block * PAGE, b"\x55" * (256 * PAGE))
    volume.discard(0, 1792 * PAGE)
    before = Path(memory.path).stat().st_blocks
    with served.client() as client:
        lease = client.lease(1024)
        touched = 1792 - (2048 - 1024)  # at least so many of them had been blocks
        assert Path(memory.path).stat().st_blocks <= before - touched * 8
        view = lease.map()
        assert view[:] == bytes(1024 * PAGE)
        view.close()
        lease.release()
    assert served.used("leases") == 0
    volume.write(0, b"\x66" * PAGE)
    assert volume.read(0, PAGE) == b"\x66" * PAGE


def test_nothing_is_given_out_while_the_server_closes(served):
    with served.client() as client:
        served.server._closing.set()
        with pytest.raises(DatapathError, match="is being stopped") as caught:
            client.lease(1)
        assert caught.value.code == Code.NOT_READY
    assert served.used("leases") == 0


def test_a_server_has_closed_when_what_was_ending_by_itself_has_ended(served):
    """The memories of the pool go next."""
    client = served.client()
    client.lease(1)
    with served.server._lock:
        client.close()
        closing = threading.Thread(target=served.server.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
    closing.join(20)
    assert served.used("leases") == 0


def test_a_deaf_client_cannot_hold_up_a_recall(served):
    """It asks without reading answers, so that its socket is full; a write gets its pages all the same."""
    served.leases.limit = 1 << 20
    free = served.pool.pages.counts()["available"]
    with raw(served) as deaf:
        deaf.send(json.dumps({"op": "lease", "pages": free}).encode())
        wait_until(lambda: served.used("leases") == free, "the lease")
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            for _ in range(100000):
                deaf.send(b'{"op": "status"}')
        served.pool.blocks.write(0, b"\x01" * PAGE)
        assert served.used("blocks") == 1


def test_the_latest_leases_are_recalled_first(served):
    served.leases.limit = 1 << 20
    free = served.pool.pages.counts()["available"]
    with served.client() as old, served.client() as new:
        old.lease(free - 10)
        last = new.lease(10)
        writer = threading.Thread(target=served.pool.blocks.write, args=(0, b"\x02" * (4 * PAGE)))
        writer.start()
        (event,) = new.recalls(20)
        assert event == {"event": "recall", "lease": last.id, "pages": 10}
        writer.join(20)
        assert not writer.is_alive() and old.recalls() == []
        # The writer goes on with the first pages that come back; the last ones follow.
        wait_until(lambda: served.used("leases") == free - 10, "every page of the recalled lease is back")
        assert served.used("blocks") == 4


def test_a_recall_while_an_answer_is_being_sent_follows_the_answer(served, monkeypatch):
    """The client has its answer a moment before the thread that sent it is through."""
    sent = connections.send

    def recall_before_the_end(link, message, fds=None, flags=0):
        sent(link, message, fds, flags)
        if "result" in message:
            served.server._connections.now()[0].notify({"event": "recall", "lease": 1, "pages": 4})

    monkeypatch.setattr(connections, "send", recall_before_the_end)
    with served.client() as client:
        client.lease(4)
        assert client.recalls(20) == [{"event": "recall", "lease": 1, "pages": 4}]


def test_a_lease_of_devdax_comes_back_when_nobody_maps_it(memory, runtime, monkeypatch):
    """A file in the place of the device: what matters is who maps which part of it."""
    device = Memory("device", memory.path, SIZE, "devdax")
    with ExitStack() as stack:
        served = Served(device, runtime, stack)
        served.pool.blocks.write(0, b"\x33" * PAGE)
        with served.client() as client, pytest.raises(DatapathError) as caught:
            client.lease(16)
        assert caught.value.code == Code.INVALID
        with served.client() as client:
            lease = client.lease(LEASE_RUN_DEVDAX)
            ((offset, length),) = lease.extents
            assert offset % (2 << 20) == 0 and length == 2 << 20
            assert lease.map()[:] == bytes(length)
            with mapper(memory.path, offset, length) as process:
                assert mappers(memory.path, lease.extents) == [process.pid]
                assert mappers(memory.path, [(offset + length, PAGE)]) == []
                lease.release()
                assert served.used("leases") == LEASE_RUN_DEVDAX
                served.stop()
                again = Served(device, runtime, stack)
                again.leases.adopt_mapped()
                assert again.used("leases") == LEASE_RUN_DEVDAX
            wait_until(lambda: again.server.reap() or again.used("leases") == 0, "nobody maps it any more")


def test_a_file_on_a_disk_is_no_memory(served, monkeypatch):
    monkeypatch.setattr(lease_module, "filesystem_of", lambda path: "ext4")
    with served.client() as client, pytest.raises(DatapathError) as caught:
        client.lease(1)
    assert caught.value.code == Code.UNSUPPORTED
    assert served.used("leases") == 0


# ---- swap on the host ---------------------------------------------------------------------------------------------------


class Tools:
    """The commands that were run; one of them may fail."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.ran: list[tuple[str, ...]] = []

    def __call__(self, *command: str) -> str:
        self.ran.append(command)
        return "no memory" if command[0] == self.failing else ""


def swaps(folder: Path, *devices: Path) -> Path:
    file = folder / "swaps"
    file.write_text("Filename Type Size Used Priority\n" + "".join(f"{device} partition 1 0 5\n" for device in devices))
    return file


def test_swap_goes_on_and_off(tmp_path):
    device, link, tools = tmp_path / "ublkb0", tmp_path / "pool0-swap", Tools()
    device.touch()
    link.symlink_to(device)
    switch_on(link, "pool0-swap-of-a-long-name", 7, swaps(tmp_path), tools)
    assert [command[0] for command in tools.ran] == ["mkswap", "swapon"]
    assert tools.ran[0][2] == "pool0-swap-of-a" and tools.ran[1] == ("swapon", "--discard=pages", "--priority", "7", str(link))
    tools = Tools()
    on = swaps(tmp_path, device)
    assert is_on(link, on)
    switch_on(link, "x", 7, on, tools)  # in use: a mkswap would be the end of every program on it
    assert tools.ran == []
    switch_off(link, on, tools)
    assert tools.ran == [("swapoff", str(link))]
    with pytest.raises(DatapathError) as caught:
        switch_off(link, on, Tools("swapoff"))
    assert caught.value.code == Code.BUSY
    switch_off(link, swaps(tmp_path), Tools("swapoff"))
    for failing in ("mkswap", "swapon"):
        with pytest.raises(DatapathError, match=failing):
            switch_on(link, "x", 7, swaps(tmp_path), Tools(failing))


def test_swap_needs_ublk():
    for frontend in ("auto", "ublk"):
        check_frontend(frontend, swap=True)
    check_frontend("nbdkit", swap=False)
    with pytest.raises(DatapathError):
        check_frontend("nbdkit", swap=True)
