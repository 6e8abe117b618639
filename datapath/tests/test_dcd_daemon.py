# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic capacity through the control socket: real server, client and CLI, a model of the device."""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import threading
from pathlib import Path

import pytest
from dcd_model import BLOCK, MIB, Model
from hosts import wait_until
from test_dcd_host import WINDOW
from test_memory_resolver import Sysfs

from cxl_datapath.cli import main
from cxl_datapath.client import Client
from cxl_datapath.dcd.desired import DesiredFile, DeviceState
from cxl_datapath.dcd.host import DcdHost
from cxl_datapath.dcd.manager import DcdManager
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.server import ControlServer
from cxl_datapath.service import Datapath
from cxl_datapath.session import Settings

SERIAL = 0x91
E0 = (8 * MIB, 8 * MIB)


class Daemon:
    """A daemon in a thread of this process."""

    def __init__(self, folder: Path, group: int | None) -> None:
        self.runtime = folder
        self._group = group
        self._loop = asyncio.new_event_loop()
        self._ended: asyncio.Event
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(folder),))
        self._thread.start()
        assert self._up.wait(20)

    async def _serve(self, folder: Path) -> None:
        self._ended = asyncio.Event()
        datapath = Datapath(Settings(folder, folder, "node1", sysfs=folder / "sys", dev=folder))
        server = ControlServer(datapath, folder / "control.sock", self._group)
        datapath.start()
        await server.start()
        self._up.set()
        await self._ended.wait()
        await server.stop()
        await datapath.stop()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)
        self._loop.close()

    def call(self, method: str, **params):
        with Client(self.runtime) as client:
            return client.call(method, **params)


@pytest.fixture
def model(monkeypatch):
    found = Model()

    def attach(_self, desired):
        if desired.serial != SERIAL:
            raise DatapathError(Code.NOT_FOUND, f"device {desired.serial:#x}", "is not there")
        host = DcdHost(found)
        host.make_region(WINDOW, desired.limit, desired.remember)
        return host

    monkeypatch.setattr(DcdManager, "_attach", attach)
    return found


@pytest.fixture
def start(model, tmp_path):
    running: list[Daemon] = []

    def begin(group: int | None = None) -> Daemon:
        running.append(Daemon(tmp_path, group))
        return running[-1]

    yield begin
    for daemon in running:
        if not daemon._loop.is_closed():
            daemon.stop()


def test_a_region_from_beginning_to_end(start, model):
    daemon = start()
    made = daemon.call("dcd.region.create", serial=SERIAL)
    assert (made["state"], made["base"], made["regions"], made["available"]) == ("running", WINDOW.base, 2, 0)
    assert daemon.call("dcd.region.create", serial=SERIAL)["state"] == "running", "the same again is no change"
    with pytest.raises(DatapathError, match="is there with window None"):
        daemon.call("dcd.region.create", serial=SERIAL, limit=BLOCK)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "the offer is accepted without being asked")
    assert daemon.call("dcd.extent.list") == [
        {"serial": SERIAL, "dpa": E0[0], "size": E0[1], "mappings": [], "asked_back": False}
    ]
    assert [row["what"] for row in daemon.call("dcd.event.list")] == ["region made", "accepted"]
    assert daemon.call("dcd.region.destroy", serial=SERIAL)["state"] == "destroyed"
    assert model.held() == [] and model.bound == "cxl_pci" and not model.mem_enabled
    assert daemon.call("dcd.region.list") == []


def test_a_mapping_keeps_its_extent_over_a_restart(start, model):
    daemon = start()
    daemon.call("dcd.region.create", serial=SERIAL, remember=True)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "accepted")
    mapped = daemon.call("dcd.mapping.create", serial=SERIAL, name="tool", dpa=E0[0], size=BLOCK)
    assert (mapped["path"], mapped["offset"], mapped["size"]) == (f"{daemon.runtime}/mem", WINDOW.base + E0[0], BLOCK)
    daemon.stop()
    assert model.committed and model.held() == [E0], "a stop changes nothing"
    again = start()
    wait_until(lambda: again.call("dcd.region.list")[0]["state"] == "running", "taken up again")
    model.ask_back(E0)
    wait_until(lambda: again.call("dcd.extent.list")[0]["asked_back"], "the request is remembered")
    with pytest.raises(DatapathError, match="is used by tool"):
        again.call("dcd.region.destroy", serial=SERIAL)
    again.call("dcd.mapping.remove", serial=SERIAL, name="tool")
    assert again.call("dcd.extent.list") == [] and model.held() == []


def test_a_mapping_as_an_open_file(start, model, tmp_path):
    memory = tmp_path / "mem"
    memory.write_bytes(b"")
    os.truncate(memory, WINDOW.base + E0[0] + BLOCK)  # sparse: host addresses
    daemon = start()
    daemon.call("dcd.region.create", serial=SERIAL)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "accepted")
    daemon.call("dcd.mapping.create", serial=SERIAL, name="tool", dpa=E0[0], size=BLOCK)
    with Client(daemon.runtime) as client:
        row, fd = client.open("dcd.mapping.open", serial=SERIAL, name="tool")
        with pytest.raises(DatapathError, match="is not there"):
            client.open("dcd.mapping.open", serial=SERIAL, name="other")
        assert client.call("hello")["host"] == "node1", "the conversation goes on"
    with mmap.mmap(fd, row["size"], offset=row["offset"]) as view:
        os.close(fd)
        view[:5] = b"hello"
    with memory.open("rb") as file:
        file.seek(WINDOW.base + E0[0])
        assert file.read(5) == b"hello"


def test_a_group_gets_no_file(start, model, tmp_path):
    (tmp_path / "mem").touch()
    daemon = start(group=os.getegid())
    daemon.call("dcd.region.create", serial=SERIAL)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "accepted")
    daemon.call("dcd.mapping.create", serial=SERIAL, name="tool", dpa=E0[0], size=BLOCK)
    with Client(daemon.runtime) as client, pytest.raises(DatapathError, match="is open to a group") as caught:
        client.open("dcd.mapping.open", serial=SERIAL, name="tool")
    assert caught.value.code == Code.DENIED


def test_a_transport_on_accepted_extents(start, model, tmp_path):
    """Two hosts would map the same range each through its own device; here one is enough to see whose bytes are taken."""
    os.truncate(os.open(tmp_path / "mem", os.O_CREAT | os.O_RDWR), WINDOW.base + sum(E0))
    daemon = start()
    daemon.call("dcd.region.create", serial=SERIAL)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "accepted")
    with pytest.raises(DatapathError, match="mapping bus: is not there"):
        daemon.call("cbd.transport.probe", memory="dcd:0x91/bus")
    daemon.call("dcd.mapping.create", serial=SERIAL, name="bus", dpa=E0[0], size=E0[1])
    daemon.call("cbd.transport.format", memory="dcd:0x91/bus", name="pool0", lease_ms=1000, ring_depth=16)
    row = daemon.call("cbd.transport.register", memory="dcd:0x91/bus")
    assert (row["name"], row["state"], row["size"]) == ("pool0", "running", E0[1])
    with (tmp_path / "mem").open("rb") as file:
        file.seek(WINDOW.base + E0[0])
        assert any(file.read(4096)), "the bytes are those of the extent"
    with pytest.raises(DatapathError, match="is the memory of transport pool0; unregister it"):
        daemon.call("dcd.mapping.remove", serial=SERIAL, name="bus")
    daemon.stop()
    again = start()
    wait_until(lambda: again.call("cbd.transport.list")[0]["state"] == "running", "device and transport are taken up again")
    again.call("cbd.transport.unregister", transport="pool0")
    again.call("dcd.mapping.remove", serial=SERIAL, name="bus")


def test_a_direct_mapping_is_listed_while_its_devdax_is_gone(start, model, tmp_path):
    """Of a host that boots, or whose namespace somebody destroyed: the others are shown, and this one can be let go."""
    daemon = start()
    sysfs = Sysfs(tmp_path / "sys")
    sysfs.memdev(1, 0x92)
    sysfs.dax("dax0.0", sysfs.region(0, [1], address=0x110000000), size=254 * MIB, address=0x110200000)
    daemon.call("dcd.region.create", serial=SERIAL, direct=0x92)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "accepted")
    made = daemon.call("dcd.mapping.create", serial=SERIAL, name="fast", dpa=E0[0], size=2 * MIB)
    assert (made["path"], made["offset"]) == (f"{tmp_path}/dax0.0", E0[0] - 2 * MIB)
    with pytest.raises(DatapathError, match="not all accepted"):
        daemon.call("dcd.mapping.create", serial=SERIAL, name="outside", dpa=sum(E0), size=2 * MIB)
    link = tmp_path / "sys/bus/dax/devices/dax0.0"
    device = link.readlink()
    link.unlink()
    (row,) = daemon.call("dcd.mapping.list")
    assert {**made, "path": None, "offset": None, "reason": row["reason"]} == row
    assert "carries no devdax device" in row["reason"]["message"]
    with pytest.raises(DatapathError, match="carries no devdax device"):
        daemon.call("dcd.mapping.create", serial=SERIAL, name="fast", dpa=E0[0], size=2 * MIB)
    link.symlink_to(device)
    assert daemon.call("dcd.mapping.list") == [made]
    link.unlink()
    daemon.call("dcd.mapping.remove", serial=SERIAL, name="fast")
    assert daemon.call("dcd.mapping.list") == []


def test_a_mapping_that_lost_its_extents_is_no_memory(start, model):
    daemon = start()
    daemon.call("dcd.region.create", serial=SERIAL)
    model.offer(E0)
    wait_until(lambda: daemon.call("dcd.extent.list"), "accepted")
    daemon.call("dcd.mapping.create", serial=SERIAL, name="bus", dpa=E0[0], size=BLOCK)
    daemon.call("dcd.mapping.create", serial=SERIAL, name="odd", dpa=E0[0] + 1, size=100)
    with pytest.raises(DatapathError, match="not whole pages"):
        daemon.call("cbd.transport.probe", memory="dcd:145/odd")
    daemon.stop()
    model.accepted.clear()  # the machine was started anew
    again = start()
    wait_until(lambda: again.call("dcd.region.list")[0]["state"] == "running", "taken up again")
    with pytest.raises(DatapathError, match="is not all accepted any more"):
        again.call("cbd.transport.probe", memory="dcd:0x91/bus")


def test_a_device_that_is_not_there(start, tmp_path):
    DesiredFile(tmp_path).save([DeviceState(0x99, None, None, False)])
    daemon = start()
    wait_until(lambda: daemon.call("dcd.region.list")[0]["reason"]["message"] == "is not there", "the reason is shown")
    for method, extra in (("dcd.region.destroy", {}), ("dcd.mapping.remove", {"name": "a"})):
        with pytest.raises(DatapathError, match="is not reachable yet"):
            daemon.call(method, serial=0x99, **extra)
        with pytest.raises(DatapathError, match="has no region here"):
            daemon.call(method, serial=0x98, **extra)
    with pytest.raises(DatapathError, match="is not there"):
        daemon.call("dcd.region.create", serial=0x98)
    assert [row["serial"] for row in daemon.call("dcd.region.list")] == [0x99]
    assert daemon.call("dcd.extent.list") == daemon.call("dcd.event.list") == []


def test_for_people(start, model, tmp_path):
    def said(*arguments: str) -> str:
        lines: list[str] = []
        assert main(["--runtime", str(tmp_path), "dcd", *arguments], lines.append) == 0
        return lines[0]

    start()
    assert said("regions") == said("extents") == "none"
    assert "0x91" in said("create", "0x91", "--limit", "16M")
    model.offer(E0)
    wait_until(lambda: said("extents") != "none", "accepted")
    assert said("extents").splitlines()[1].split() == ["0x91", "0x800000", "8M", "-", "no"]
    said("map", "0x91", "tool", "8M", "2M")
    assert said("mappings").splitlines()[1].split() == ["0x91", "tool", "0x800000", "2M", str(tmp_path / "mem"), "0x5d0800000"]
    assert said("extents").splitlines()[1].split()[3] == "tool"
    assert "accepted" in said("events") and "0x800000+0x800000" in said("events")
    said("unmap", "145", "tool")
    said("destroy", "0x91")
    assert said("regions") == "none"


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"version": 2, "devices": []}', '{"version": 1, "devices": 5}', '{"version": 1, "devices": [{}]}', "[" * 100000],
)
def test_a_damaged_state_is_never_guessed_at(tmp_path, text):
    file = DesiredFile(tmp_path)
    state = DeviceState(1, 0, None, True, 0x92, {"a": (0, 5)})
    file.save([state])
    assert file.load() == [state]
    file.path.write_text(text)
    with pytest.raises(DatapathError, match="is damaged"):
        file.load()
    twice = json.dumps(
        {"version": 1, "devices": [{"serial": 1, "window": None, "limit": None, "remember": False, "mappings": {}}] * 2}
    )
    file.path.write_text(twice)
    with pytest.raises(DatapathError, match="two devices"):
        file.load()
