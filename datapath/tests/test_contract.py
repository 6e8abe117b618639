# SPDX-License-Identifier: GPL-3.0-or-later
"""What real hosts must refuse, each with an error that says why and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from claimants import Claimant
from hosts import Host, wait_until
from lab import DISK, MEMORY, MIB, Lab, alive, io_works, needs_nbd, running, stopped, was_looked_for
from mishaps import damage, paused, unlock

from cxl_datapath.cbd.metadata import seal
from cxl_datapath.cbd.registry import ENTRY_COPY, Registry
from cxl_datapath.cbd.transport import attach
from cxl_datapath.errors import Code
from cxl_datapath.mapping import Mapping
from cxl_datapath.memory import resolve

pytestmark = needs_nbd


def test_format_is_refused_over_a_transport_and_over_live_hosts(lab, make_host):
    other = make_host("node3")
    for host, force in ((other, False), (other, True), (lab.node1, False), (lab.node1, True)):
        error = host.refuse(Code.BUSY, "cbd.transport.format", memory=lab.memory, name="pool1", force=force)
        assert error.message == "in use by the live host(s) node1, node2"
        assert error.hint == "stop what they have in it, unregister it on each of them, then format with force"
    lab.node1.kill()
    lab.node2.kill()
    error = other.refuse(Code.EXISTS, "cbd.transport.format", memory=lab.memory, name="pool1")
    assert "force" in error.hint
    assert other.call("cbd.transport.probe", memory=lab.memory)["info"]["name"] == "pool0"
    assert other.call("cbd.transport.format", memory=lab.memory, name="pool1", force=True)["info"]["name"] == "pool1"
    lab.node1.start()
    row = wait_until(
        lambda: next((t for t in lab.node1.call("cbd.transport.list") if was_looked_for(t)), None), "node1 says what it found"
    )
    assert "formatted again" in row["reason"]["message"]
    assert row["reason"]["hint"].endswith('docs/cbd.md, "A transport that was lost"')


def test_a_transport_that_was_lost_leads_to_the_steps_and_they_work(lab):
    """As docs/cbd.md has them: stop, unregister, format, register, start."""
    lab.mapped(name="data")
    for node in (lab.node1, lab.node2):
        node.kill()
    Path(lab.memory).unlink()
    os.truncate(os.open(lab.memory, os.O_CREAT | os.O_RDWR, 0o600), MEMORY)
    for node in (lab.node1, lab.node2):
        node.start()
        (row,) = wait_until(
            lambda n=node: [t for t in n.call("cbd.transport.list") if was_looked_for(t)], "it says what happened"
        )
        assert row["reason"]["message"] == "holds no transport: the transport was lost"
        assert 'docs/cbd.md, "A transport that was lost"' in node.cli("cbd", "transport", "list").stdout
        title = row["reason"]["hint"].rpartition("docs/cbd.md, ")[2].strip('"')
        assert f"\n## {title}\n" in (Path(__file__).parents[2] / "docs/cbd.md").read_text(encoding="utf-8")
    assert lab.node2.cli("cbd", "blkdev", "stop", "pool0", "data").returncode == 0
    assert lab.node1.cli("cbd", "backend", "stop", "pool0", str(lab.folder / "disk")).returncode == 0
    for node in (lab.node1, lab.node2):
        assert node.cli("cbd", "transport", "unregister", "pool0").returncode == 0
    assert lab.node1.cli("cbd", "transport", "format", lab.memory, "pool0").returncode == 0
    for node in (lab.node1, lab.node2):
        assert node.cli("cbd", "transport", "register", lab.memory).returncode == 0
    assert io_works(lab.mapped(name="data")[1], 0x48)


def test_a_host_that_was_formatted_away_stops_its_workers(lab, make_host):
    _, device = lab.mapped()
    server = int((lab.node2.runtime / "cbd0.pid").read_text())
    for node in (lab.node1, lab.node2):
        unlock(Path(lab.memory), node.pid)
    with paused({lab.node1.pid, lab.node2.pid}):
        other = make_host("node3")
        other.call("cbd.transport.format", memory=lab.memory, name="pool1", force=True)
    for node in (lab.node1, lab.node2):
        wait_until(lambda seen=node: seen.call("cbd.transport.list")[0]["state"] == "pending", "it notices")
    wait_until(lambda: not running(server), "the device is gone")
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
    with copy.open("r+b") as file:
        for offset in (0, 4096):
            file.seek(offset)
            file.write(seal(b"CXTI", 9, b"later", 4096, version=9))
    error = lab.node1.refuse(Code.UNSUPPORTED, "cbd.transport.register", memory=str(copy))
    assert "version 9" in error.message
    error = lab.node1.refuse(Code.EXISTS, "cbd.transport.format", memory=str(copy), name="x")
    assert "version 9" in error.message


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
        wait_until(lambda: alive(lab.node2, "node1") is True, "node1 goes on")
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


def test_a_file_is_not_both_memory_and_backend(lab):
    error = lab.node1.refuse(Code.BUSY, "cbd.backend.start", transport="pool0", path=lab.memory)
    assert "memory of transport pool0" in error.message
    disk = lab.disk(size=MEMORY)
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk))
    error = lab.node1.refuse(Code.BUSY, "cbd.transport.format", memory=str(disk), name="pool1", force=True)
    assert "backend 0 of transport pool0" in error.message
    assert disk.read_bytes().count(0) == MEMORY


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
    assert "blkdev 0 of host node2" in lab.node2.refuse(Code.BUSY, "cbd.blkdev.start", **start, name="other").message
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


def test_what_cannot_be_saved_as_stopped_goes_on(lab):
    _, device = lab.mapped()
    for node in (lab.node1, lab.node2):
        (node.state / "state.new").mkdir()  # where the next state would be written
    error = lab.node2.refuse(Code.FAILED, "cbd.blkdev.stop", transport="pool0", id=0)
    assert (error.object, "try again" in error.hint) == (str(lab.node2.state / "state.json"), True)
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "the blkdev goes on")
    assert io_works(device, 0x41)
    (lab.node2.state / "state.new").rmdir()
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    lab.node1.refuse(Code.FAILED, "cbd.backend.stop", transport="pool0", id=0)
    assert lab.node1.worker("backend", "pool0", 0)["state"] == "running"
    (lab.node1.state / "state.new").rmdir()
    lab.node1.call("cbd.backend.stop", transport="pool0", id=0)
    (lab.node1.state / "state.new").mkdir()
    lab.node1.refuse(Code.FAILED, "cbd.transport.unregister", transport="pool0")
    assert lab.node1.call("cbd.transport.list")[0]["state"] == "running"
    (lab.node1.state / "state.new").rmdir()
    lab.node1.call("cbd.transport.unregister", transport="pool0")


def test_a_damaged_backend_is_written_again_and_nobody_notices(lab):
    _, device = lab.mapped()
    (before,) = lab.node2.call("cbd.backend.list", transport="pool0")
    damage(lab.memory, "backends")
    wait_until(lambda: lab.node2.call("cbd.backend.list", transport="pool0") == [before], "the entry is what it was")
    assert io_works(device, 0x43)
    for node, kind in ((lab.node1, "backend"), (lab.node2, "blkdev")):
        assert node.worker(kind, "pool0", 0)["restarts"] == 0


def test_damaged_entries_of_a_whole_path_are_written_again(lab):
    _, device = lab.mapped()
    damage(lab.memory, "backends", "blkdevs")
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["restarts"], "the blkdev notices")
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "the blkdev runs again")
    (row,) = lab.node1.call("cbd.blkdev.list", transport="pool0")
    assert (row["state"], row["host"]) == ("running", "node2")
    assert io_works(device, 0x43)


def test_no_writer_beside_one_that_cannot_be_read(lab):
    _, device = lab.mapped()
    lab.node2.kill()
    damage(lab.memory, "blkdevs")
    start = {"transport": "pool0", "backend": 0, "frontend": "nbdkit"}
    error = lab.node1.refuse(Code.BUSY, "cbd.blkdev.start", **start)
    assert (error.object, "clear" in error.hint) == ("blkdev 0", True)
    assert lab.node1.call("cbd.blkdev.start", **start, read_only=True)["read_only"]
    lab.node2.start()
    wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["state"] == "running", "its host has written it again")
    assert io_works(device, 0x44)


def test_a_damaged_entry_is_cleared_by_the_stop_of_its_host(lab):
    disk, _ = lab.mapped()
    with paused([lab.node1.worker("backend", "pool0", 0)["pid"]]):
        damage(lab.memory, "blkdevs", "backends")
        wait_until(lambda: lab.node2.worker("blkdev", "pool0", 0)["error"], "the damage is noticed")
        for node, kind, named in ((lab.node2, "blkdev", "cbd0"), (lab.node1, "backend", str(disk))):
            (row,) = node.call(f"cbd.{kind}.list", transport="pool0")
            assert (row["state"], row["host"], row["local"]) == ("corrupt", node.name, True)
            assert named in node.cli("cbd", kind, "list", "pool0").stdout
            assert node.call(f"cbd.{kind}.stop", transport="pool0", id=named)["state"] == "stopped"
            assert node.call(f"cbd.{kind}.list", transport="pool0") == []
    _, device = lab.mapped()
    assert io_works(device, 0x43)


def test_a_backend_that_starts_over_a_damaged_entry_says_what_to_do(lab):
    disk, _ = lab.mapped()
    lab.node1.stop()
    damage(lab.memory, "backends")
    lab.node1.start()
    error = wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["error"], "it says why it does not run")
    assert ("damaged" in error["message"], "stop it here" in error["hint"]) == (True, True)
    wait_until(lambda: stopped(lab.node2), "the device is stopped")
    assert lab.node1.call("cbd.backend.stop", transport="pool0", id=str(disk))["state"] == "stopped"
    assert io_works(lab.mapped()[1], 0x44)


def _channels(lab: Lab) -> int:
    return int(lab.node1.call("cbd.transport.list")[0]["channels"])


def test_a_backend_whose_host_died_is_refused_in_time(lab):
    lab.mapped()
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    lab.node1.kill()
    wait_until(lambda: alive(lab.node2, "node1") is False, "node2 sees node1 die")
    error = lab.node2.refuse(Code.NOT_READY, "cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")
    assert "node1 is not alive" in error.message


def away_and_back(lab, before_start=lambda: None):
    """node1 was dead for node2, and has registered again a moment ago."""
    lab.node1.stop()
    wait_until(lambda: alive(lab.node2, "node1") is False, "node2 sees node1 die")
    before_start()
    lab.node1.start()
    with Mapping(resolve(lab.memory)) as mapping:
        registry = Registry(mapping, attach(mapping, lab.memory))
        wait_until(lambda: registry.incarnation(0) == 2, "node1 is back")


def test_a_backend_whose_host_has_just_come_back_is_waited_for(lab):
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(lab.disk()))
    away_and_back(lab)
    device = lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"]
    assert io_works(device, 0x45)


def test_a_backend_without_its_disk_is_looked_for_on_its_host(lab):
    disk = lab.disk()
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(disk))
    away_and_back(lab, lambda: disk.rename(disk.with_suffix(".hidden")))
    wait_until(lambda: lab.node1.worker("backend", "pool0", 0)["error"], "it cannot be served")
    error = lab.node2.refuse(Code.TIMEOUT, "cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")
    assert ("on node1" in error.hint, "recover" in error.hint) == (True, False)


def test_a_backend_that_does_not_come_back_with_its_host_is_told_apart(lab):
    """It waits for the claim, which a third host holds."""
    lab.node1.call("cbd.backend.start", transport="pool0", path=str(lab.disk()))
    holder = Claimant(Path(lab.memory), "holder")
    try:
        holder.ask("register")
        away_and_back(lab, lambda: holder.ask("hold"))
        error = lab.node2.refuse(Code.NOT_READY, "cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")
        assert "node1 is back" in error.message
        assert error.hint.startswith("see why, on node1")
        before, _, after = error.hint.partition("stop cxl-datapathd on node1")  # a host that lives is not taken over from
        assert ("recover" in before, "recover" in after) == (False, True)
    finally:
        holder.kill()


def test_a_dead_users_hold_ends_when_it_is_cleared(lab, make_host):
    lab.mapped()
    third = make_host("node3")
    third.call("cbd.transport.register", memory=lab.memory)
    lab.node2.kill()
    wait_until(lambda: alive(lab.node1, "node2") is False, "node1 sees node2 die")
    wait_until(lambda: alive(third, "node2") is False, "node3 sees node2 die")
    third.refuse(Code.BUSY, "cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")
    assert third.call("cbd.blkdev.clear", transport="pool0", id=0)["state"] == "cleared"
    device = third.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"]
    assert io_works(device, 0x81)


def test_a_blkdev_that_was_cleared_while_its_host_was_away_does_not_come_back_as_a_writer(lab):
    _, device = lab.mapped()
    assert io_works(device, 0x44)
    lab.node2.kill()
    wait_until(lambda: alive(lab.node1, "node2") is False, "node1 sees node2 die")
    (row,) = [host for host in lab.node1.call("cbd.host.list", transport="pool0") if host["name"] == "node2"]
    lab.node1.call("cbd.host.clear", transport="pool0", id=row["id"])
    lab.node2.start()
    wait_until(lambda: lab.node2.call("cbd.blkdev.list", transport="pool0")[0]["worker"]["error"], "it says why")
    (blkdev,) = lab.node2.call("cbd.blkdev.list", transport="pool0")
    assert "was cleared by another host" in blkdev["worker"]["error"]["message"]
    assert (blkdev["state"], blkdev["host"]) == ("lost", "node2")
    assert lab.node1.call("cbd.backend.list", transport="pool0")[0]["blkdevs"] == []
    lab.node2.call("cbd.blkdev.stop", transport="pool0", id=0)
    assert io_works(lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"], 0x45)


def test_old_slots_of_a_channel_whose_history_was_lost_are_not_performed_again(lab):
    disk, device = lab.mapped()
    assert io_works(device, 0x46)
    wait_until(lambda: stopped(lab.node2), "the client is gone")
    with Mapping(resolve(lab.memory)) as mapping:
        registry = Registry(mapping, attach(mapping, lab.memory))
        for line in (0, 2048):
            mapping.write(registry.info.geometry.channel_off(0) + line, bytes(64))
        mapping.write(registry.blkdevs.page(0), bytes(2 * ENTRY_COPY))
    disk.write_bytes(bytes(DISK))
    device = lab.node2.call("cbd.blkdev.start", transport="pool0", backend=0, frontend="nbdkit")["device"]
    assert io_works(device, 0x47)
    assert disk.read_bytes().count(b"\x46") == 0


def test_a_takeover_of_what_runs_here_with_another_medium_is_refused(lab):
    disk, _ = lab.mapped()
    assert lab.node1.call("cbd.backend.recover", transport="pool0", id=0, path=str(disk))["state"] == "running"
    error = lab.node1.refuse(Code.EXISTS, "cbd.backend.recover", transport="pool0", id=0, path="/dev/null")
    assert str(disk) in error.message
    lab.node1.refuse(Code.EXISTS, "cbd.backend.recover", transport="pool0", id=0, read_only=True)


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
