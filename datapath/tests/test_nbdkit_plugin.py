# SPDX-License-Identifier: GPL-3.0-or-later
"""The nbdkit plugin in a real nbdkit, against a real backend in a process of its own, used by real NBD clients."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin import ENV, SIZE, SLOT, WAIT_S, Setup, make_setup, nbdsh, run


@pytest.fixture
def setup(tmp_path: Path, shared_file: Callable[[int], Path]) -> Setup:
    return make_setup(tmp_path, shared_file)


def test_export_tells_the_truth(setup: Setup) -> None:
    with setup.backend(), setup.nbdkit():
        (export,) = json.loads(run("nbdinfo", "--json", setup.uri))["exports"]
    assert export["export-size"] == SIZE
    assert not export["is_read_only"]
    for ability in ("can_flush", "can_fua", "can_multi_conn", "can_trim", "can_zero"):
        assert export[ability], ability
    assert (export["block_size_minimum"], export["block_size_preferred"]) == (512, SLOT)


@pytest.mark.parametrize(("discard", "write_zeroes"), [(0, 0), (0, 1), (1, 0)])
def test_abilities_follow_the_backend(setup: Setup, discard: int, write_zeroes: int) -> None:
    setup.parameters = {"discard": discard, "write_zeroes": write_zeroes}
    with setup.backend(), setup.nbdkit():
        (export,) = json.loads(run("nbdinfo", "--json", setup.uri))["exports"]
        nbdsh(setup, "h.zero(8192, 4096)")
    assert bool(export["can_trim"]) is bool(discard)
    # nbdkit offers zeroes in any case and writes them by itself where the plugin cannot.
    assert setup.backing.read_bytes()[4096:12288] == bytes(8192)


@pytest.mark.parametrize("features", [0, 1])
@pytest.mark.parametrize("coherence", ["hardware", "software"])
def test_copy_in_and_out(setup: Setup, tmp_path: Path, coherence: str, features: int) -> None:
    setup.coherence, setup.features = coherence, features
    image = tmp_path / "image"
    image.write_bytes(random.Random(2).randbytes(SIZE // 2) + bytes(SIZE // 2))
    with setup.backend(), setup.nbdkit():
        run("nbdcopy", "--flush", image, setup.uri)
        run("nbdcopy", setup.uri, tmp_path / "copy")
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, setup.uri)
    assert setup.backing.read_bytes() == image.read_bytes()
    assert (tmp_path / "copy").read_bytes() == image.read_bytes()


def test_every_operation(setup: Setup) -> None:
    with setup.backend(), setup.nbdkit():
        nbdsh(
            setup,
            """
first = h.pread(20 << 20, 512)
h.pwrite(b"f" * 512, 0, nbd.CMD_FLAG_FUA)
h.pwrite(b"w" * (3 << 20), 4 << 20)
h.trim(65536, 5 << 20)
h.zero(65536, 6 << 20, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(512, 0) == b"f" * 512
assert h.pread(65536, 5 << 20) == bytes(65536)
assert h.pread(3 << 20, 4 << 20)[:1 << 20] == b"w" * (1 << 20)
assert h.pread(20 << 20, 512)[:1 << 20] == first[:1 << 20]
""",
        )
    written = setup.backing.read_bytes()
    assert written[: 4 << 20] == b"f" * 512 + random.Random(1).randbytes(SIZE)[512 : 4 << 20]
    assert written[6 << 20 : 7 << 20] == bytes(65536) + b"w" * ((1 << 20) - 65536)


def test_many_requests_at_once_keep_apart(setup: Setup) -> None:
    with setup.backend(), setup.nbdkit():
        nbdsh(
            setup,
            """
import random
h.set_strict_mode(0)
order = list(range(256))
random.Random(3).shuffle(order)
cookies = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n % 251]) * 40960), n * 40960) for n in order]
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
buffers = {n: nbd.Buffer(40960) for n in order}
cookies = [h.aio_pread(buffers[n], n * 40960) for n in order]
while cookies:
    h.poll(-1)
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
for n, buffer in buffers.items():
    assert buffer.to_bytearray() == bytearray([n % 251]) * 40960, n
""",
        )


def test_read_only(setup: Setup) -> None:
    setup.read_only = 1
    before = setup.backing.read_bytes()
    with setup.backend(), setup.nbdkit():
        (export,) = json.loads(run("nbdinfo", "--json", setup.uri))["exports"]
        assert export["is_read_only"]
        run("qemu-img", "compare", "-f", "raw", "-F", "raw", setup.backing, setup.uri)
        nbdsh(
            setup,
            """
h.set_strict_mode(0)
try:
    h.pwrite(b"x" * 512, 0)
except nbd.Error as error:
    assert error.errnum in (1, 30), error
else:
    raise SystemExit("a write went through")
""",
        )
    assert setup.backing.read_bytes() == before


def test_errors_of_the_backend_arrive(setup: Setup) -> None:
    with setup.backend(), setup.nbdkit():
        os.truncate(setup.backing, 1 << 20)
        nbdsh(
            setup,
            """
assert len(h.pread(4096, 0)) == 4096
try:
    h.pread(4096, 8 << 20)
except nbd.Error as error:
    assert error.errno == "EIO", error
else:
    raise SystemExit("a read beyond the end of the file went through")
""",
        )


def test_a_silent_backend_does_not_keep_nbdkit(setup: Setup) -> None:
    with (
        setup.nbdkit() as server,
        subprocess.Popen(
            ["nbdsh", "-u", setup.uri, "-c", "print('asking', flush=True)", "-c", "h.pread(512, 0)"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENV,
        ) as client,
    ):
        assert client.stdout and client.stdout.readline() == b"asking\n"
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.5)
        server.send_signal(signal.SIGTERM)
        assert client.wait(WAIT_S) != 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"memory": None}, "memory, coherence and at least one channel"),
        ({"memory": "/nonexistent/file"}, "/nonexistent/file"),
        ({"memory": "/tmp"}, "memory=/tmp"),
        ({"memory": "/dev/zero"}, "memory_len"),
        ({"memory_len": 1 << 40}, "memory_len"),
        ({"coherence": "sometimes"}, "coherence=sometimes"),
        ({"features": 6}, "features=6"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": 1000}, "capacity=1000"),
        ({"capacity": None}, "capacity"),
        ({"block_size": 1024}, "block_size=1024"),
        ({"read_only": "perhaps"}, "perhaps"),
        ({"ring_depth": 12}, "ring_depth=12"),
        ({"ring_depth": "many"}, "ring_depth"),
        ({"slot_bytes": 5000}, "slot_bytes=5000"),
        ({"channel": "4096"}, "OFFSET:EPOCH"),
        ({"channel": "4096:x"}, "epoch"),
        ({"channel": ":1"}, "offset"),
        ({"channel": "4097:1"}, "multiple of 4096"),
        ({"channel": f"{1 << 40}:1"}, "lies outside"),
        ({"channel": f"{(1 << 64) - 4096}:1"}, "lies outside"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_bad_parameters_are_named(setup: Setup, changes: dict[str, object], complaint: str) -> None:
    setup.parameters = changes
    done = subprocess.run(setup.nbdkit_command(), check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode != 0
    assert complaint in done.stderr


def test_a_channel_given_twice_is_refused(setup: Setup) -> None:
    command = [*setup.nbdkit_command(), f"channel={setup.channels()[0]}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode != 0
    assert "given twice" in done.stderr
