# SPDX-License-Identifier: GPL-3.0-or-later
"""The cbd modules against two real daemons that share a file, each as one host."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.modules import cbd_backend, cbd_blkdev, cbd_info, cbd_transport
from fakes import run_module

DATAPATH = Path(__file__).resolve().parents[2] / "datapath"
MIB = 1 << 20

needs_daemon = pytest.mark.skipif(
    sys.version_info < (3, 11) or not shutil.which("cmake"), reason="the daemon needs Python 3.11 and a build of its C core"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[dict[str, Any]]:
    """Hosts node1 and node2, a shared memory and a disk."""
    sys.path[:0] = [str(DATAPATH / "src"), str(DATAPATH / "tests")]
    from core_build import build_library
    from hosts import Host

    before = {key: os.environ.get(key) for key in ("CXL_CORE_LIBRARY", "PYTHONPATH")}
    os.environ["CXL_CORE_LIBRARY"] = before["CXL_CORE_LIBRARY"] or str(build_library())
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(DATAPATH / "src"), before["PYTHONPATH"]]))
    folder = Path(tempfile.mkdtemp(prefix="cxlt-"))
    hosts = []
    try:
        with tempfile.NamedTemporaryFile(prefix="cxl-test-", dir="/dev/shm") as memory:
            memory.truncate(64 * MIB)
            (folder / "disk").write_bytes(bytes(8 * MIB))
            for name in ("node1", "node2"):
                (folder / name).mkdir()
                hosts.append(Host(folder / name, name))
                hosts[-1].start()
            yield {"memory": memory.name, "disk": str(folder / "disk"), "node1": hosts[0], "node2": hosts[1]}
            for host in reversed(hosts):
                host.stop()
    finally:
        for host in hosts:
            host.kill()
        shutil.rmtree(folder)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@pytest.fixture
def call(lab, monkeypatch, capsys):
    def run(module, host: str, **args):
        return run_module(module, monkeypatch, capsys, runtime_dir=str(lab[host].runtime), **args)

    return run


@needs_daemon
def test_the_whole_life_of_a_block_device(lab, call):
    memory = {"name": "pool0", "memory": lab["memory"]}
    backend = {"transport": "pool0", "path": lab["disk"]}
    blkdev = {"transport": "pool0", "backend": 0, "name": "disk0"}

    # Check mode foresees everything before anything is there.
    for module, args in (
        (cbd_transport, {**memory, "state": "formatted"}),
        (cbd_transport, memory),
        (cbd_backend, backend),
        (cbd_blkdev, blkdev),
    ):
        assert call(module, "node1", check=True, **args)["changed"], args
    assert "hold" in call(cbd_transport, "node1", **memory)["msg"]
    assert "not registered" in call(cbd_backend, "node1", **backend)["msg"]

    formatted = call(cbd_transport, "node1", state="formatted", ring_depth=32, slot_bytes="16K", **memory)
    assert formatted["changed"] and formatted["transport"]["slot_bytes"] == 16384
    assert call(cbd_transport, "node2", state="formatted", ring_depth=32, **memory)["changed"] is False
    assert "ring_depth 32" in call(cbd_transport, "node2", state="formatted", ring_depth=64, **memory)["msg"]
    assert "transport pool0" in call(cbd_transport, "node2", state="formatted", name="other", memory=lab["memory"])["msg"]

    for host in ("node1", "node2"):
        registered = call(cbd_transport, host, **memory)
        assert registered["changed"] and registered["transport"]["uuid"] == formatted["transport"]["uuid"]
        assert call(cbd_transport, host, **memory)["changed"] is False

    assert "waited 0 s for backend 0" in call(cbd_blkdev, "node2", wait=False, **blkdev)["msg"]
    started = call(cbd_backend, "node1", id=0, **backend)
    assert started["changed"] and started["backend"]["capacity"] == 8 * MIB
    assert call(cbd_backend, "node1", **backend)["changed"] is False
    assert "read-write" in call(cbd_backend, "node1", read_only=True, **backend)["msg"]

    (seen,) = call(cbd_info, "node2", transport="pool0")["transports"]
    assert [(row["id"], row["host"]) for row in seen["backend_list"]] == [(0, "node1")]
    assert {row["name"] for row in seen["host_list"]} == {"node1", "node2"}

    if shutil.which("nbdkit"):
        disk = call(cbd_blkdev, "node2", frontend="nbdkit", **blkdev)
        assert disk["changed"] and disk["blkdev"]["frontend"] == "nbdkit" and disk["blkdev"]["device"], disk
        assert call(cbd_blkdev, "node2", **blkdev)["changed"] is False
        assert "queues 1" in call(cbd_blkdev, "node2", queues=2, **blkdev)["msg"]
        assert "is used by" in call(cbd_backend, "node1", state="absent", **backend)["msg"]
        assert call(cbd_blkdev, "node2", state="absent", **blkdev)["blkdev"] is None
    assert call(cbd_blkdev, "node2", state="absent", **blkdev)["changed"] is False

    assert call(cbd_backend, "node1", state="absent", **backend)["changed"]
    assert call(cbd_backend, "node1", state="absent", **backend)["changed"] is False
    for host in ("node1", "node2"):
        assert call(cbd_transport, host, name="pool0", state="absent")["changed"]
        assert call(cbd_transport, host, name="pool0", state="absent")["changed"] is False
    assert call(cbd_info, "node1")["transports"] == []


def test_without_a_daemon(monkeypatch, capsys, tmp_path):
    def call(module, **args):
        return run_module(module, monkeypatch, capsys, runtime_dir=str(tmp_path), **args)

    wanted = [
        (cbd_transport, {"name": "pool0", "memory": "/dev/dax0.0", "state": "formatted"}),
        (cbd_transport, {"name": "pool0", "memory": "serial:0xc0de0001"}),
        (cbd_backend, {"transport": "pool0", "path": "/dev/ram0p1"}),
        (cbd_blkdev, {"transport": "pool0", "backend": 0}),
    ]
    for module, args in wanted:
        foreseen = call(module, check=True, **args)
        assert foreseen["changed"] and "when the daemon runs" in foreseen["steps"][0]
        assert "nobody listens" in call(module, **args)["msg"]
    assert call(cbd_backend, check=True, transport="pool0", path="/dev/ram0p1", state="absent")["changed"] is False
    assert call(cbd_info, check=True)["transports"] == []


@pytest.mark.parametrize(
    ("module", "args", "match"),
    [
        (cbd_transport, {"name": "Pool 0", "memory": "/dev/dax0.0"}, "no valid name"),
        (cbd_transport, {"name": "pool0", "memory": "dax0.0"}, "no absolute path"),
        (cbd_transport, {"name": "pool0"}, "memory"),
        (cbd_transport, {"name": "pool0", "memory": "/x", "slot_bytes": "many"}, "no size"),
        (cbd_backend, {"transport": "pool0", "path": "/x", "id": 5000}, "choose 0 to 1023"),
        (cbd_blkdev, {"transport": "pool0", "backend": 0, "queues": 17}, "choose 1 to 16"),
        (cbd_blkdev, {"transport": "pool0", "backend": 0, "name": "../x"}, "no valid name"),
    ],
)
def test_bad_input_is_refused_before_anybody_is_asked(module, args, match, monkeypatch, capsys, tmp_path):  # noqa: PLR0917
    result = run_module(module, monkeypatch, capsys, runtime_dir=str(tmp_path), **args)
    assert result["failed"] and match in result["msg"]
