# SPDX-License-Identifier: GPL-3.0-or-later
"""The control socket of the nbdkit plugin: what its clients see when their backend dies, comes back, or stays away."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from plugin import CHANNELS, ENV, EPOCH, WAIT_S, Setup, make_setup, nbdsh, run

DEATHS = 12
FUZZ_ROUNDS = 3000

# Commands of the test on its standard input, one line each; what happens on its standard output.
CLIENT = """
import errno, random, select, sys

def say(text):
    print(text, flush=True)

def load():
    # Verified I/O with many requests in flight, until the next line comes.
    r, block, blocks, rounds = random.Random(5), 98304, 64, 0
    model = {}
    while not select.select([sys.stdin], [], [], 0)[0] or rounds < 3:
        chosen = r.sample(range(blocks), 24)
        writes, reads = chosen[:12], chosen[12:]
        for n in writes:
            model[n] = r.randbytes(1) * block
        cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(model[n])), n * block) for n in writes]
        buffers = {n: nbd.Buffer(block) for n in reads}
        cookies += [h.aio_pread(buffer, n * block) for n, buffer in buffers.items()]
        while cookies:
            h.poll(-1)
            cookies = [c for c in cookies if not h.aio_command_completed(c)]
        for n, buffer in buffers.items():
            assert n not in model or buffer.to_bytearray() == model[n], n
        rounds += 1
    for n, data in model.items():
        assert h.pread(block, n * block) == data, n

def read():
    try:
        h.pread(512, 0)
    except nbd.Error as error:
        return error.errno
    return "fine"

say("connected")
for line in iter(sys.stdin.readline, ""):
    if line == "load\\n":
        load()
        say("loaded")
    elif line == "read\\n":
        say("asking")
        say(read())
"""


@pytest.fixture
def setup(tmp_path: Path, shared_file: Callable[[int], Path]) -> Setup:
    return make_setup(tmp_path, shared_file)


class Control:
    """Our end of the socket."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def ask(self, command: str | bytes) -> str:
        self.end.send(command.encode() if isinstance(command, str) else command)
        return self.end.recv(4096).decode()

    def rebind(self, setup: Setup, generation: int) -> None:
        assert self.ask(" ".join(["rebind", *setup.channels(generation)])) == "ok"


@contextlib.contextmanager
def controlled(setup: Setup) -> Iterator[tuple[Control, subprocess.Popen[bytes]]]:
    """A server and the control of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, contextlib.ExitStack() as stack:
        with theirs:
            setup.parameters = {**setup.parameters, "control": theirs.fileno()}
            server = stack.enter_context(setup.nbdkit(pass_fds=(theirs.fileno(),)))
        ours.settimeout(WAIT_S)
        yield Control(ours), server


class Client:
    """A connected NBD client that stays."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert self.hear() == "connected"

    def tell(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def read(self) -> str:
        self.tell("read")
        assert self.hear() == "asking"
        return self.hear()


@contextlib.contextmanager
def client(setup: Setup) -> Iterator[Client]:
    command = ["nbdsh", "-u", setup.uri, "-c", CLIENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENV) as process:
        try:
            yield Client(process)
            assert process.stdin
            process.stdin.close()
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def kill(backend: subprocess.Popen[str]) -> None:
    backend.kill()
    with backend:
        pass


def test_a_client_sees_only_a_pause_while_its_backend_dies_and_comes_back(setup: Setup) -> None:
    pause = random.Random(8)
    backend = setup.start_backend()
    try:
        with controlled(setup) as (control, _), client(setup) as user:
            user.tell("load")
            for generation in range(1, DEATHS + 1):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    user.process.wait(pause.random() / 5)
                kill(backend)
                backend = setup.start_backend(generation)
                control.rebind(setup, generation)
            user.tell("")
            assert user.hear() == "loaded"
            assert " errors=0 bad_slots=0 " in control.ask("stats")
    finally:
        kill(backend)


def test_offline_until_a_rebind(setup: Setup) -> None:
    with controlled(setup) as (control, _), client(setup) as user:
        with setup.backend():
            assert user.read() == "fine"
        user.tell("read")
        assert user.hear() == "asking"
        assert control.ask("offline 5") == "ok"
        assert user.hear() == "EIO"
        assert user.read() == "EIO"
        assert control.ask("offline 28") == "ok"
        assert user.read() == "ENOSPC"
        with setup.backend(1):
            assert user.read() == "ENOSPC"
            control.rebind(setup, 1)
            assert user.read() == "fine"


def test_stats_count(setup: Setup) -> None:
    with setup.backend(), controlled(setup) as (control, _):
        nbdsh(setup, "h.pwrite(bytes(1024), 0); h.pread(512, 0)")
        status, *fields = control.ask("stats").split(" ")
        assert status == "ok"
        stats = dict(field.split("=") for field in fields)
        assert stats == {
            "submitted": "2",
            "requests": "2",
            "bytes_read": "512",
            "bytes_written": "1024",
            "errors": "0",
            "bad_slots": "0",
            "crc_retries": "0",
        }


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("", "error 22 unknown command"),
        ("rebind", "error 22 rebind: expected one channel for each of 2 queues"),
        (f"rebind 4096:{EPOCH + 9}", "error 22 rebind: expected one channel for each of 2 queues"),
        ("rebind 1:2 1:2", "error 22 rebind: channel 1: 1 is given twice"),
        ("rebind 1:2 3", "error 22 rebind: channel 1: expected OFFSET:EPOCH"),
        (f"rebind 4096:{EPOCH + 9} {1 << 40}:1", "error 34 rebind: a channel lies outside"),
        ("offline 0", "error 22 offline: expected an errno"),
        ("x" * 2000, "error 90 a command has at most 1024 bytes"),
    ],
)
def test_wrong_commands_are_refused_and_change_nothing(setup: Setup, command: str, answer: str) -> None:
    with setup.backend(), controlled(setup) as (control, _):
        assert control.ask(command).startswith(answer)
        for _ in range(CHANNELS):
            nbdsh(setup, "h.pread(512, 0)")


def test_random_commands_are_answered_and_the_server_survives(setup: Setup) -> None:
    r = random.Random(99)
    words = ["rebind", "offline", "stats", *setup.channels(), "5", "-1", "0:0", "\n", "", "é", "\0"]
    with controlled(setup) as (control, _), setup.backend(1):
        for _ in range(FUZZ_ROUNDS):
            text = " ".join(r.choices(words, k=r.randrange(5))).encode()
            if r.random() < 0.3:
                text = r.randbytes(r.randrange(1500))
            assert control.ask(text).startswith(("ok", "error "))
        control.rebind(setup, 1)
        nbdsh(setup, "h.pread(512, 0)")


def test_the_peer_may_close_its_end(setup: Setup) -> None:
    with setup.backend(), controlled(setup) as (control, _):
        control.end.close()
        nbdsh(setup, "h.pread(512, 0)")


def test_the_server_ends_while_requests_wait(setup: Setup) -> None:
    script = """
cookies = [h.aio_pread(nbd.Buffer(65536), n * 65536) for n in range(200)]
while h.aio_in_flight() < 200 or h.aio_is_processing():
    h.poll(0)
print("asking", flush=True)
while True:
    h.poll(-1)
"""
    with (
        controlled(setup) as (control, server),
        subprocess.Popen(
            ["nbdsh", "-u", setup.uri, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENV
        ) as user,
    ):
        assert user.stdout and user.stdout.readline() == b"asking\n"
        control.end.setblocking(False)
        with pytest.raises(BlockingIOError):  # and nobody reads the answers
            while True:
                control.end.send(b"stats")
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
        assert user.wait(WAIT_S) != 0


def test_a_server_in_the_background(setup: Setup, tmp_path: Path) -> None:
    """It forks before it serves: the thread of the control has to be on the right side."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid_file = tmp_path / "pid"
    with ours, setup.backend():
        with theirs:
            setup.parameters = {"control": theirs.fileno()}
            command = [word for word in setup.nbdkit_command() if word != "-f"]
            subprocess.run([*command[:1], "-P", pid_file, *command[1:]], check=True, pass_fds=(theirs.fileno(),))
        ours.settimeout(WAIT_S)
        try:
            assert Control(ours).ask("stats").startswith("ok submitted=")
        finally:
            os.kill(int(pid_file.read_text()), signal.SIGTERM)
        assert ours.recv(1) == b""


def test_physical_blocks_are_preferred(setup: Setup) -> None:
    setup.parameters = {"slot_bytes": 8192, "physical_block_size": 32768}
    with setup.nbdkit():
        (export,) = json.loads(run("nbdinfo", "--json", "--no-content", setup.uri))["exports"]
    assert (export["block_size_minimum"], export["block_size_preferred"]) == (512, 32768)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"control": -1}, "control=-1"),
        ({"control": "x"}, "control"),
        ({"control": 99}, "control=99: expected the number of an inherited SOCK_SEQPACKET socket"),
        ({"control": 0}, "control=0: expected the number of an inherited SOCK_SEQPACKET socket"),
        ({"physical_block_size": 256}, "physical_block_size=256"),
        ({"physical_block_size": 3000}, "physical_block_size=3000"),
        ({"physical_block_size": 131072}, "physical_block_size=131072"),
    ],
)
def test_bad_parameters_are_named(setup: Setup, changes: dict[str, object], complaint: str) -> None:
    setup.parameters = changes
    done = subprocess.run(setup.nbdkit_command(), stdin=subprocess.DEVNULL, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_stream_is_no_control(setup: Setup) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        setup.parameters = {"control": theirs.fileno()}
        command = setup.nbdkit_command()
        done = subprocess.run(command, check=False, capture_output=True, text=True, pass_fds=(theirs.fileno(),))
    assert done.returncode != 0
    assert "SOCK_SEQPACKET" in done.stderr
