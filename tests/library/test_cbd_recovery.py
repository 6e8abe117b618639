# SPDX-License-Identifier: GPL-3.0-or-later
"""The cbd modules when hosts die: real daemons, real takeovers, and a device that goes on."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from ansible.modules import cbd_backend, cbd_blkdev, cbd_host, cbd_info, cbd_transport
from fakes import run_module
from real_daemons import needs_daemon, real_lab

pytestmark = [
    needs_daemon,
    pytest.mark.skipif(not all(map(shutil.which, ("nbdkit", "qemu-io"))), reason="needs nbdkit and qemu-io"),
]
HOSTS = ("node1", "node2", "node3")


@pytest.fixture
def lab():
    """node1 to node3 in transport pool0, which has the shortest lease."""
    with real_lab(*HOSTS) as running:
        yield running


@pytest.fixture
def call(lab, monkeypatch, capsys):
    """Runs a module on a host; whether it fails has to be as expected."""

    def run(module, host, refused=False, **args):
        result = run_module(module, monkeypatch, capsys, runtime_dir=lab.runtime(host), **args)
        assert result.get("failed", False) is refused, result
        return result

    pool = {"name": "pool0", "memory": lab.memory}
    made = run(cbd_transport, "node1", transports=[{**pool, "state": "formatted", "geometry": {"lease_ms": 1000}}])
    assert made["transports"][0]["lease_ms"] == 1000
    for host in HOSTS:
        run(cbd_transport, host, transports=[pool])
    return run


def backend(**item):
    return {"backends": [{"transport": "pool0", **item}]}


def blkdev(**item):
    return {"blkdevs": [{"transport": "pool0", "frontend": "nbdkit", **item}]}


def io(device, *commands):
    """Whether every command succeeds."""
    arguments = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "raw", *arguments, device], capture_output=True, text=True, timeout=120, check=False)
    said = (done.stdout + done.stderr).lower()
    return done.returncode == 0 and "failed" not in said and "error" not in said


def test_another_host_takes_over_and_the_device_goes_on(lab, call):
    disk, replica = lab.disk("disk"), lab.disk("replica")
    call(cbd_backend, "node1", **backend(path=disk, id=0))
    device = call(cbd_blkdev, "node2", **blkdev(backend=0, name="data"))["blkdevs"][0]["device"]
    assert io(device, "write -P 0x11 0 64k")
    shutil.copyfile(disk, replica)
    wanted = backend(id=0, path=replica, state="recovered")
    dead = {"hosts": [{"transport": "pool0", "name": "node1"}]}

    for module, args in ((cbd_backend, wanted), (cbd_host, dead), (cbd_backend, backend(id=0, state="cleared"))):
        living = call(module, "node3", refused=True, wait=False, **args)
        assert "waited 0 s for host node1 of" in living["msg"] and "transports" in living["observed"]

    lab.hosts["node1"].kill()
    assert call(cbd_backend, "node3", check=True, **wanted)["changed"]
    taken = call(cbd_backend, "node3", **wanted)
    assert taken["changed"]
    assert [(row["id"], row["host"], row["path"]) for row in taken["backends"]] == [(0, "node3", replica)]
    assert call(cbd_backend, "node3", **wanted)["changed"] is False
    assert io(device, "read -P 0x11 0 64k", "write -P 0x22 1M 64k", "read -P 0x22 1M 64k")
    assert call(cbd_blkdev, "node2", **blkdev(backend=0, name="data"))["changed"] is False

    (left,) = [row for row in call(cbd_info, "node3")["hosts"] if row["name"] == "node1"]
    assert left["fenced"] is True
    assert call(cbd_host, "node3", check=True, **dead)["changed"]
    assert call(cbd_host, "node3", **dead)["hosts"] == []
    assert call(cbd_host, "node3", **dead)["changed"] is False
    assert {row["name"] for row in call(cbd_info, "node2")["hosts"]} == {"node2", "node3"}


def test_one_call_takes_over_all_that_a_host_had(lab, call):
    replica = lab.disk("replica")
    shared = lab.disk("shared")
    call(
        cbd_backend,
        "node1",
        backends=[{"transport": "pool0", "path": path, "id": number} for number, path in ((0, lab.disk("disk")), (5, shared))],
    )
    device = call(cbd_blkdev, "node2", **blkdev(backend=0, name="data"))["blkdevs"][0]["device"]
    lab.hosts["node1"].kill()
    wanted = {"hosts": [{"name": "node1", "state": "recovered", "paths": {"0": replica}}]}
    done = call(cbd_host, "node3", **wanted)
    assert done["steps"] == ["take backend 0 over", "take backend 5 over", "clear host node1 out of transport pool0"]
    assert call(cbd_host, "node3", **wanted)["changed"] is False
    seen = call(cbd_info, "node2")
    assert [(row["id"], row["host"], row["path"]) for row in seen["backends"]] == [(0, "node3", replica), (5, "node3", shared)]
    assert {row["name"] for row in seen["hosts"]} == {"node2", "node3"}
    assert io(device, "write -P 0x33 0 64k", "read -P 0x33 0 64k")


def test_a_host_that_comes_back_finds_its_backend_taken_and_can_give_it_up(lab, call):
    disk, replica = lab.disk("disk"), lab.disk("replica")
    call(cbd_backend, "node1", **backend(path=disk, id=0))
    lab.hosts["node1"].kill()
    call(cbd_backend, "node3", **backend(id=0, path=replica, state="recovered"))
    lab.hosts["node1"].start()
    call(cbd_transport, "node1", transports=[{"name": "pool0", "memory": lab.memory}])
    refused = call(cbd_backend, "node1", refused=True, **backend(path=disk, id=0))
    assert f"backend 0 is {replica} on node3" in refused["msg"]
    for check in (True, False):
        assert "it was taken over" in call(cbd_backend, "node1", refused=True, check=check, **backend(path=disk))["msg"]
    assert "to be dead" in call(cbd_backend, "node1", refused=True, wait=False, **backend(id=0, state="recovered"))["msg"]
    gone = backend(path=disk, id=0, state="absent")
    assert call(cbd_backend, "node1", **gone)["changed"]
    assert call(cbd_backend, "node1", **gone)["changed"] is False
    assert call(cbd_transport, "node1", transports=[{"name": "pool0", "state": "absent"}])["changed"]
    assert [(row["id"], row["host"]) for row in call(cbd_info, "node2")["backends"]] == [(0, "node3")]


def test_what_a_dead_host_left_is_cleared_away(lab, call):
    for number in (0, 1):
        call(cbd_backend, "node1", **backend(path=lab.disk(f"disk{number}"), id=number))
    number = call(cbd_blkdev, "node2", **blkdev(backend=0))["blkdevs"][0]["id"]
    lab.hosts["node1"].kill()
    lab.hosts["node2"].kill()
    for module, args in (
        (cbd_blkdev, {"blkdevs": [{"transport": "pool0", "id": number, "state": "cleared"}]}),
        (cbd_backend, backend(id=1, state="cleared")),
    ):
        done = call(module, "node3", **args)
        assert done["changed"] and len(done["steps"]) == 1
        assert call(module, "node3", **args)["changed"] is False
    both = {"hosts": [{"name": "node1"}, {"name": "node2"}]}
    assert call(cbd_host, "node3", **both)["changed"]
    assert call(cbd_host, "node3", **both)["changed"] is False
    seen = call(cbd_info, "node3")
    assert seen["backends"] == seen["blkdevs"] == [] and [row["name"] for row in seen["hosts"]] == ["node3"]


def test_a_host_that_is_needed_is_cleared_by_force_only(lab, call):
    call(cbd_backend, "node1", **backend(path=lab.disk("disk"), id=0))
    device = call(cbd_blkdev, "node2", **blkdev(backend=0, io_timeout=1))["blkdevs"][0]["device"]
    lab.hosts["node1"].kill()
    refused = call(cbd_host, "node3", refused=True, hosts=[{"name": "node1"}])
    assert "is used by" in refused["msg"]
    assert call(cbd_host, "node3", hosts=[{"name": "node1", "force": True}])["changed"]
    assert not io(device, "read 0 64k"), "an error and no hang"


def test_blkdevs_of_one_backend(lab, call):
    call(cbd_backend, "node1", **backend(path=lab.disk("disk"), id=0))
    writer = call(cbd_blkdev, "node2", **blkdev(backend=0, name="writer", io_timeout=60))["blkdevs"][0]
    assert (writer["read_only"], writer["shared"], writer["io_timeout"]) == (False, False, 60)
    assert (
        "is written by blkdev 0 of host node2"
        in call(cbd_blkdev, "node3", refused=True, **blkdev(backend=0, name="second"))["msg"]
    )
    readers = {"blkdevs": [{**blkdev(backend=0)["blkdevs"][0], "name": name, "read_only": True} for name in ("r1", "r2")]}
    assert [row["read_only"] for row in call(cbd_blkdev, "node3", **readers)["blkdevs"]] == [True, True]
    assert call(cbd_blkdev, "node3", **readers)["changed"] is False
    assert "read_only True" in call(cbd_blkdev, "node3", refused=True, **blkdev(backend=0, name="r1"))["msg"]
    assert "this host has r1, r2 there" in call(cbd_blkdev, "node3", refused=True, **blkdev(backend=0))["msg"]

    for host in ("node2", "node3"):
        names = [row["name"] for row in call(cbd_info, host)["blkdevs"] if row["local"]]
        gone = {"blkdevs": [{"transport": "pool0", "name": name, "state": "absent"} for name in names]}
        assert call(cbd_blkdev, host, **gone)["changed"]
    cluster = blkdev(backend=0, name="cluster", shared=True)
    for host in ("node2", "node3"):
        assert call(cbd_blkdev, host, **cluster)["blkdevs"][0]["shared"] is True
        assert call(cbd_blkdev, host, **cluster)["changed"] is False


def test_a_host_that_lost_its_state_hears_what_it_forgot(lab, call):
    """As long as no entry of its list means that; and serves it again with the entry that it had before."""
    disk, other = backend(path=lab.disk("disk"), id=0), backend(path=lab.disk("other"), id=1)
    call(cbd_backend, "node1", **disk)
    call(cbd_blkdev, "node2", **blkdev(backend=0, name="data"))
    lab.hosts["node1"].stop()
    (lab.hosts["node1"].state / "state.json").unlink()
    lab.hosts["node1"].start()
    call(cbd_transport, "node1", transports=[{"name": "pool0", "memory": lab.memory}])
    for check in (True, False):
        (warning,) = call(cbd_backend, "node1", check=check, **other)["warnings"]
        text = str(warning)  # this Ansible wraps it into an object, others do not
        assert "backend 0 of transport pool0" in text and "was forgotten by this host" in text
    refused = call(cbd_backend, "node1", refused=True, **backend(path=lab.disk("third"), id=0))
    assert "this host forgot" in refused["msg"]
    assert call(cbd_backend, "node1", **disk)["backends"][0]["state"] == "running"
