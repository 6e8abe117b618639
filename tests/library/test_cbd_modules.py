# SPDX-License-Identifier: GPL-3.0-or-later
"""The cbd modules against two real daemons that share a file, each as one host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from ansible.modules import cbd_backend, cbd_blkdev, cbd_host, cbd_info, cbd_transport
from fakes import run_module
from real_daemons import MIB, RealLab, needs_daemon, real_lab


@pytest.fixture(scope="module")
def lab() -> Iterator[RealLab]:
    with real_lab("node1", "node2") as running:
        yield running


@pytest.fixture
def call(lab, monkeypatch, capsys):
    def run(module, host: str, **args):
        return run_module(module, monkeypatch, capsys, runtime_dir=lab.runtime(host), **args)

    return run


@needs_daemon
def test_the_whole_life_of_a_block_device(lab, call):
    memory = {"name": "pool0", "memory": lab.memory}
    backend = {"transport": "pool0", "path": lab.disk("disk")}
    blkdev = {"transport": "pool0", "backend": 0, "name": "disk0"}

    def transport(host, check=False, **item):
        return call(cbd_transport, host, check=check, transports=[{**memory, **item}])

    def give(check=False, **item):
        return call(cbd_backend, "node1", check=check, backends=[{**backend, **item}])

    def use(check=False, wait=True, **item):
        return call(cbd_blkdev, "node2", check=check, wait=wait, blkdevs=[{**blkdev, **item}])

    # Check mode foresees everything before anything is there.
    for foreseen in (transport("node1", True, state="formatted"), transport("node1", True), give(True), use(True)):
        assert foreseen["changed"], foreseen
    assert "hold" in transport("node1")["msg"]
    assert "not registered" in give()["msg"]

    formatted = transport("node1", state="formatted", geometry={"ring_depth": 32, "slot_bytes": "16K"})
    assert formatted["changed"] and formatted["transports"][0]["slot_bytes"] == 16384
    assert transport("node2", state="formatted", geometry={"ring_depth": 32})["changed"] is False
    assert "ring_depth 32" in transport("node2", state="formatted", geometry={"ring_depth": 64})["msg"]
    assert "transport pool0" in transport("node2", state="formatted", name="other")["msg"]

    for host in ("node1", "node2"):
        registered = transport(host)
        assert registered["changed"] and registered["transports"][0]["uuid"] == formatted["transports"][0]["uuid"]
        assert transport(host)["changed"] is False

    assert "waited 0 s for backend 0" in use(wait=False)["msg"]
    started = give(id=0)
    assert started["changed"] and started["backends"][0]["capacity"] == 8 * MIB
    assert give()["changed"] is False
    assert "read-write" in give(read_only=True)["msg"]
    assert "this host itself" in call(cbd_host, "node1", hosts=[{"transport": "pool0", "name": "node1"}])["msg"]

    seen = call(cbd_info, "node2", transports=["pool0"])
    assert [(row["id"], row["host"], row["transport"]) for row in seen["backends"]] == [(0, "node1", "pool0")]
    assert {row["name"] for row in seen["hosts"]} == {"node1", "node2"} and len(seen["transports"]) == 1

    if shutil.which("nbdkit"):
        disk = use(frontend="nbdkit")
        assert disk["changed"] and disk["blkdevs"][0]["frontend"] == "nbdkit" and disk["blkdevs"][0]["device"], disk
        assert use()["changed"] is False
        assert "queues 1" in use(queues=2)["msg"]
        for check in (True, False):
            assert "is used by" in give(check, state="absent")["msg"]
        stop = {"backends": [{**backend, "state": "absent"}], "leaving": {"blkdevs": use(True, state="absent")["gone"]}}
        assert call(cbd_backend, "node1", check=True, **stop)["changed"]
        assert "is used by" in call(cbd_backend, "node1", **stop)["msg"]
        assert use(state="absent")["blkdevs"] == []
    assert use(state="absent")["changed"] is False

    for check in (True, False):
        assert "this host has backend 0 (" in transport("node1", check, state="absent")["msg"]
    going = give(True, state="absent")["gone"]
    foreseen = call(cbd_transport, "node1", check=True, transports=[{**memory, "state": "absent"}], leaving={"backends": going})
    assert foreseen["changed"], foreseen

    assert give(state="absent")["changed"]
    assert give(state="absent")["changed"] is False
    for host in ("node1", "node2"):
        assert transport(host, state="absent")["changed"]
        assert transport(host, state="absent")["changed"] is False
    assert call(cbd_info, "node1")["transports"] == []


@needs_daemon
def test_a_memory_that_is_not_made_yet_is_foreseen_in_check_mode_and_an_error_in_a_run(lab, call):
    memory = f"{lab.memory}.later"
    formatted = {"name": "pool1", "memory": memory, "state": "formatted", "geometry": {"ring_depth": 32}}
    registered = {"name": "pool1", "memory": memory}
    foreseen = call(cbd_transport, "node1", check=True, transports=[formatted])
    assert foreseen["changed"] and foreseen["steps"] == [f"format {memory} as transport pool1"], foreseen
    after = {"transport pool1": [{"name": "pool1", "memory": memory, "ring_depth": 32}]}
    assert foreseen["diff"] == {"before": {}, "after": after}
    foreseen = call(cbd_transport, "node1", check=True, transports=[registered])
    assert foreseen["changed"] and foreseen["diff"]["after"]["transport pool1"][0]["state"] == "running"
    for item in (formatted, registered):
        assert call(cbd_transport, "node1", transports=[item])["msg"] == (
            f"{memory}: cannot look at it: No such file or directory; create it with its full size first; "
            "ansible-playbook -i INVENTORY playbooks/memory.yml (or site.yml) makes the memory that the inventory has"
        )
    unusable = {**formatted, "memory": str(lab.folder)}
    for check in (True, False):
        refused = call(cbd_transport, "node1", check=check, transports=[unusable])["msg"]
        assert "neither a devdax device nor a regular file" in refused and "playbooks/" not in refused


def test_without_a_daemon(monkeypatch, capsys, tmp_path):
    def call(module, **args):
        return run_module(module, monkeypatch, capsys, runtime_dir=str(tmp_path), **args)

    wanted = [
        (cbd_transport, {"transports": [{"name": "pool0", "memory": "/dev/dax0.0", "state": "formatted"}]}),
        (cbd_transport, {"transports": [{"name": "pool0", "memory": "serial:0xc0de0001"}]}),
        (cbd_backend, {"backends": [{"transport": "pool0", "path": "/dev/ram0p1"}]}),
        (cbd_blkdev, {"blkdevs": [{"transport": "pool0", "backend": 0}]}),
    ]
    for module, args in wanted:
        foreseen = call(module, check=True, **args)
        assert foreseen["changed"] and "when the daemon runs" in foreseen["steps"][0]
        assert "nobody listens" in call(module, **args)["msg"]
    gone = [{"transport": "pool0", "path": "/dev/ram0p1", "state": "absent"}]
    assert call(cbd_backend, check=True, backends=gone)["changed"] is False
    assert call(cbd_host, check=True, hosts=[{"name": "node1"}])["changed"] is False
    assert call(cbd_info, check=True) | {"invocation": None} == {
        "changed": False,
        "daemon": None,
        "transports": [],
        "hosts": [],
        "backends": [],
        "blkdevs": [],
        "invocation": None,
    }


@pytest.mark.parametrize(
    ("module", "noun", "item", "match"),
    [
        (cbd_transport, "transports", {"name": "Pool 0", "memory": "/dev/dax0.0"}, "no valid name"),
        (cbd_transport, "transports", {"name": "pool0"}, "memory"),
        (cbd_transport, "transports", {"name": "pool0", "memory": "/x", "geometry": {"lease_ms": 1}}, "choose 1000 to 600000"),
        (cbd_backend, "backends", {"transport": "pool0", "path": "/x", "id": 5000}, "choose 0 to 1023"),
        (cbd_blkdev, "blkdevs", {"transport": "pool0", "backend": 0, "queues": 17}, "choose 1 to 16"),
        (cbd_blkdev, "blkdevs", {"transport": "pool0", "state": "absent"}, "backend, name"),
        (cbd_blkdev, "blkdevs", {"transport": "pool0", "state": "cleared"}, "id"),
        (cbd_host, "hosts", {"name": "node 1"}, "no name of a host"),
    ],
)
def test_bad_input_is_refused_before_anybody_is_asked(module, noun, item, match, monkeypatch, capsys, tmp_path):  # noqa: PLR0917
    result = run_module(module, monkeypatch, capsys, runtime_dir=str(tmp_path), **{noun: [item]})
    assert result["failed"] and match in result["msg"]
