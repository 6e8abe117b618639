# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic capacity by the direct data path, a persistent memdev over the same bytes, on one real virtual machine; and what QEMU
makes of tags.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dcd_pool import BLOCK, DEVICE, MIB, SERIAL, Pool, mapped
from scenario import ROOT, changed, wait_until

EXTRA = ROOT / "tests/scenarios/dcd_direct.yml"
LAB = Pool("dcd_direct", ("-e", f"@{EXTRA}"), inventory="switched")
FAST = 0xC0DE0002
START = 256 * MIB  # of both devices in the pool
AHEAD = 2 * MIB  # of the namespace's data
OWN, SIZE = 32 * MIB, 64 * MIB
BUS, FREE = 128 * MIB, 256 * MIB
ONE, TWO = ((320 * MIB, BLOCK), (328 * MIB, BLOCK)), (336 * MIB, BLOCK)
# What waits in the device's event log: tag, place in the order of shared extents, and whether the request goes on.
LOG = (
    "import json",
    "from pathlib import Path",
    "from cxl_datapath.dcd.config import serial_number",
    "from cxl_datapath.dcd.device import DcdDevice",
    "from cxl_datapath.dcd.registers import cxl_functions",
    f"(found,) = [each for each in cxl_functions(Path('/sys')) if serial_number(each.config()) == {SERIAL}]",
    "_, events = DcdDevice(found).events()",
    "print(json.dumps([[each.extent.tag.hex(), each.extent.sequence, each.more] for each in events]))",
)


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def mappings() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in LAB.daemon("node1", "mappings")}


def own(*lines: str) -> str:
    """A program with the mapping "own" as its `view`, by the file that the daemon hands out."""
    return LAB.program("node1", *mapped("own", OWN, SIZE), *lines)


def refused(name: str, dpa: int, size: int = BLOCK) -> str:
    said = LAB.on("node1", f"cxl-datapath dcd map {SERIAL:#x} {name} {dpa} {size} 2>&1 || true")
    assert name not in mappings()
    return said


def namespace() -> dict[str, Any]:
    (row,) = json.loads(LAB.on("node1", "ndctl", "list", "-N", "-v"))
    return dict(row)


def devdax() -> str:
    return f"/dev/{namespace()['daxregion']['devices'][0]['chardev']}"


def plainly(dpa: int, text: str = "") -> bytes:
    """A program that asks nobody: it maps the devdax, writes, and reads five bytes."""
    found = LAB.program(
        "node1",
        "import mmap, os",
        f"view = mmap.mmap(os.open({devdax()!r}, os.O_RDWR), {BLOCK}, offset={dpa - AHEAD})",
        f"view[:{len(text)}] = {text.encode()!r}",
        "print(view[:5].hex())",
    )
    return bytes.fromhex(found.strip().splitlines()[-1])


def stored(dpa: int, count: int = 5) -> bytes:
    """What is in the pool's file."""
    with Path(f"/dev/shm/cxl-lab.{LAB.name}.bytes").open("rb") as file:
        file.seek(START + dpa)
        return file.read(count)


def test_the_lab_comes_up_and_stays() -> None:
    LAB.comes_up("create", "memory", "datapath", "dcd")
    assert "iomem=relaxed" not in LAB.on("node1", "cat", "/proc/cmdline").split(), "no decoder of a bridge is to be programmed"
    (region,) = LAB.daemon("node1", "regions")
    assert (region["state"], region["data_path"], region["direct_serial"]) == ("running", "direct", FAST)
    assert LAB.extents("node1") == {OWN: SIZE}


def test_a_mapping_is_a_range_of_the_persistent_memdev() -> None:
    row = mappings()["own"]
    assert (row["path"], row["offset"], row["size"], row["reason"]) == (devdax(), OWN - AHEAD, SIZE, None)


def test_the_bytes_are_those_of_the_pool_and_of_the_device() -> None:
    own("view[:5] = b'first'", "view[-5:] = b'final'")
    assert (stored(OWN), stored(OWN + SIZE - 5)) == (b"first", b"final")
    assert LAB.look("node1", OWN, 5) == b"first", "through the window"
    base = LAB.daemon("node1", "regions")[0]["base"]
    LAB.program(
        "node1",
        "import mmap, os",
        f"view = mmap.mmap(os.open('/dev/mem', os.O_RDWR), 4096, offset={base + OWN + 4096})",
        "view[:5] = b'other'",
    )
    assert "b'other'" in own("print(view[4096:4101])") and stored(OWN + 4096) == b"other"


def test_only_accepted_ranges_are_handed_out() -> None:
    assert "is not all accepted" in refused("outside", FREE)
    assert "is not all accepted" in refused("before", OWN - BLOCK)
    assert "is not all accepted" in refused("across", OWN + SIZE - BLOCK, 2 * BLOCK)
    LAB.fabric({"host": "node1", "tag": "front", "size": "4M", "offset": "0"})
    assert f"reaches device addresses {AHEAD:#x} to" in refused("front", 0), "accepted, and the namespace has it"
    LAB.poke("node1", "behind", AHEAD, "behind")
    assert mappings()["behind"]["offset"] == 0 and stored(AHEAD) == b"behin"
    LAB.unmap("node1", "behind")
    LAB.fabric({"host": "node1", "tag": "front", "state": "absent"})


def test_nothing_but_the_daemon_keeps_programs_to_them() -> None:
    """The gate is cooperative, as docs/dcd.md says; that of the device is closed all the same."""
    assert plainly(FREE, "plain") == b"plain" == stored(FREE)
    assert LAB.look("node1", FREE, 5) == bytes(5)


def test_a_transport_in_a_direct_mapping() -> None:
    LAB.fabric({"host": "node1", "tag": "bus", "size": "64M", "offset": "128M"})
    LAB.daemon("node1", "map", hex(SERIAL), "bus", str(BUS), str(SIZE))
    memory = f"dcd:{SERIAL:#x}/bus"
    LAB.on("node1", "cxl-datapath", "cbd", "transport", "format", memory, "direct0", "--lease-ms", "15000")
    row = json.loads(LAB.on("node1", "cxl-datapath", "cbd", "transport", "register", memory, "--json"))
    assert (row["name"], row["state"], row["size"]) == ("direct0", "running", SIZE)
    assert any(stored(BUS, 4096)) and LAB.look("node1", BUS, 64) == stored(BUS, 64), "its header is where the extent is"
    said = LAB.on("node1", f"cxl-datapath dcd unmap {SERIAL:#x} bus 2>&1 || true")
    assert "is the memory of transport direct0" in said
    LAB.on("node1", "cxl-datapath", "cbd", "transport", "unregister", "direct0")
    LAB.unmap("node1", "bus")
    LAB.fabric({"host": "node1", "tag": "bus", "state": "absent"})


def test_a_release_under_a_user_is_ignored() -> None:
    LAB.fabric({"host": "node1", "tag": "own", "state": "absent"}, fails="the host uses it", wait_timeout=2)
    assert "release ignored" in LAB.events("node1")
    assert LAB.holds("node1", (OWN, SIZE)) and "b'first'" in own("print(view[:5])")


def test_a_daemon_that_starts_has_the_same_mapping() -> None:
    before = mappings()
    LAB.on("node1", "systemctl", "restart", "cxl-datapathd")
    LAB.await_daemon("node1")
    assert mappings() == before and "b'first'" in own("print(view[:5])")


def test_a_mapping_whose_devdax_is_away_says_so() -> None:
    before, name = mappings(), namespace()["dev"]
    LAB.on("node1", "ndctl", "disable-namespace", name)
    row = mappings()["own"]
    assert row["path"] is None and "carries no devdax device" in row["reason"]["message"]
    LAB.on("node1", "ndctl", "enable-namespace", name)
    wait_until(lambda: mappings() == before, "it is there again")
    assert "b'first'" in own("print(view[:5])")


def test_what_is_released_is_handed_out_to_nobody_and_keeps_its_bytes() -> None:
    LAB.unmap("node1", "own")
    assert LAB.holds("node1", (OWN, SIZE)), "the request was not remembered"
    LAB.fabric({"host": "node1", "tag": "own", "state": "absent"})
    assert "is not all accepted" in refused("own", OWN)
    assert LAB.look("node1", OWN, 5) == bytes(5), "the device shows nothing of it"
    assert plainly(OWN) == b"first" == stored(OWN), "the other way does: that is cooperative"
    assert LAB.playbook("playbooks/dcd.yml")[0] == 0
    assert "b'first'" in own("print(view[:5])")


def test_what_is_scrubbed_is_empty_on_the_direct_way_as_well() -> None:
    LAB.unmap("node1", "own")
    LAB.fabric({"host": "node1", "tag": "own", "state": "absent", "sanitize": True})
    assert not any(stored(OWN, SIZE)) and stored(FREE) == b"plain", "these bytes and no others"
    assert plainly(OWN) == bytes(5)
    assert LAB.playbook("playbooks/dcd.yml")[0] == 0
    assert "b'again'" in own("view[:5] = b'again'", "print(view[:5])") and stored(OWN) == b"again"


def test_qemu_lets_no_tag_through() -> None:
    """The daemon refuses several of them, and shared extents with a gap. With QEMU no host ever sees either; and when extents are
    asked back, both look at the ranges alone."""
    LAB.on("node1", "systemctl", "stop", "cxl-datapathd")
    try:
        assert LAB.offer("node1", *ONE, tag="one") == ""
        assert LAB.offer("node1", TWO, tag="two") == ""
        waiting = json.loads(LAB.program("node1", *LOG))
    finally:
        LAB.on("node1", "systemctl", "start", "cxl-datapathd")
    assert waiting == [["00" * 16, 0, more] for more in (True, False, False)]
    LAB.await_daemon("node1")
    wait_until(lambda: LAB.holds("node1", *ONE, TWO), "both requests are accepted")
    LAB.daemon("node1", "map", hex(SERIAL), "second", str(TWO[0]), str(BLOCK))
    assert LAB.ask_back("node1", TWO, tag="one") == ""
    wait_until(lambda: "release ignored" in LAB.events("node1"), "the host uses it, under whatever tag it is asked for")
    assert LAB.ask_back("node1", *ONE, tag="two") == ""
    wait_until(lambda: not any(LAB.holds("node1", each) for each in ONE), "nobody uses those")
    assert LAB.holds("node1", TWO)
    extents = [{"offset": TWO[0], "len": BLOCK}]
    by_tag = {"path": DEVICE, "host-id": 0, "removal-policy": "tag-based", "region": 0, "tag": "two", "extents": extents}
    assert "Removal policy not supported" in LAB.qmp("node1", "cxl-release-dynamic-capacity", **by_tag)
    LAB.unmap("node1", "second")
    assert LAB.ask_back("node1", TWO, tag="one") == ""
    wait_until(lambda: not LAB.holds("node1", TWO), "given back")


def test_a_reboot_brings_it_back() -> None:
    before, boot = mappings(), LAB.boot_id("node1")
    LAB.on("node1", "sh", "-c", "'systemctl reboot || true'")
    wait_until(lambda: LAB.boot_id("node1") not in ("", boot), "node1 is back", patience_s=600)
    LAB.await_daemon("node1")
    wait_until(lambda: mappings() == before, "the namespace and the mapping through it are there")
    assert "b'again'" in own("print(view[:5])")
    code, output = LAB.playbook("playbooks/dcd.yml")
    assert (code, changed(output)) == (0, 0)


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == [] and not Path(f"/var/lib/cxl-lab-dcd/{LAB.name}").exists()
