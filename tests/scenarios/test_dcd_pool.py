# SPDX-License-Identifier: GPL-3.0-or-later
"""Dynamic capacity on four real virtual machines that share one device: inventories/dcd_pool.

The steps build on each other and run in the order of this file. node3 and node4 begin with nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcd_pool import BLOCK, MIB, REGION, SERIAL, Pool, manager_that_dies, mapped, race
from scenario import ROOT, changed, run, wait_until

LAB = Pool("dcd_scenario", inventory="dcd_pool")
COMMON = REGION + 64 * MIB  # the extent that node1 and node2 share
A, B = 256 * MIB, 320 * MIB  # places in region 0 that nobody has from the inventory


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


# ---- the lab -------------------------------------------------------------------------------------------------------------


def test_check_mode_before_anything_is_there() -> None:
    assert LAB.playbook("site.yml", "--check")[0] == 0
    assert LAB.remains() == []


def test_built_twice() -> None:
    assert LAB.playbook("site.yml")[0] == 0, "and a file system on a block device through the shared extent was verified"
    code, output = LAB.playbook("site.yml")
    assert (code, changed(output)) == (0, 0)
    assert LAB.extents("node1") == {0: 128 * MIB, REGION: 64 * MIB, COMMON: 64 * MIB}
    assert LAB.extents("node2") == {128 * MIB: 128 * MIB, REGION: 64 * MIB, COMMON: 64 * MIB}
    assert LAB.extents("node3") == LAB.extents("node4") == {}


def test_a_transport_keeps_its_extent() -> None:
    LAB.fabric({"host": "node2", "region": 1, "tag": "bus", "state": "absent"}, fails="the host uses it", wait_timeout=2)
    said = LAB.on("node2", f"cxl-datapath dcd unmap {SERIAL:#x} bus 2>&1 || true")
    assert "is the memory of transport bus0" in said


# ---- rules of the flow -------------------------------------------------------------------------------------------------


def test_no_region_no_accept() -> None:
    LAB.daemon("node3", "destroy", hex(SERIAL))
    assert LAB.offer("node3", (A, 2 * BLOCK)) == ""
    assert "still pending" in LAB.offer("node3", (A, 2 * BLOCK)), "nobody answers"
    LAB.daemon("node3", "create", hex(SERIAL))
    wait_until(lambda: "refused: no region" in LAB.events("node3"), "what came before the region is refused")
    assert LAB.extents("node3") == {}


def test_a_release_without_a_user_is_obeyed_at_once() -> None:
    LAB.fabric({"host": "node3", "tag": "free", "size": "64M", "offset": "256M"})
    assert LAB.extents("node3") == {A: 64 * MIB}
    LAB.fabric({"host": "node3", "tag": "free", "state": "absent"})
    assert LAB.extents("node3") == {}


def test_a_release_under_a_user_is_ignored_and_has_to_come_again() -> None:
    LAB.poke("node2", "holder", 128 * MIB, "still here")
    LAB.fabric({"host": "node2", "tag": "own", "state": "absent"}, fails="the host uses it", wait_timeout=2)
    assert "release ignored" in LAB.events("node2")
    assert LAB.peek("node2", "holder", 128 * MIB, 10) == b"still here"
    LAB.unmap("node2", "holder")
    assert LAB.holds("node2", (128 * MIB, 128 * MIB)), "it was not remembered"
    LAB.fabric({"host": "node2", "tag": "own", "state": "absent", "sanitize": True})
    assert not LAB.holds("node2", (128 * MIB, BLOCK))
    LAB.fabric({"host": "node3", "tag": "own", "size": "128M", "offset": "128M"})
    assert LAB.peek("node3", "next", 128 * MIB, 10) == bytes(10), "the data was scrubbed"
    LAB.unmap("node3", "next")


def test_a_release_that_is_remembered() -> None:
    LAB.daemon("node4", "destroy", hex(SERIAL))
    LAB.daemon("node4", "create", hex(SERIAL), "--remember")
    assert LAB.offer("node4", (A, 2 * BLOCK)) == ""
    wait_until(lambda: LAB.holds("node4", (A, 2 * BLOCK)), "accepted")
    LAB.poke("node4", "user", A, "x")
    assert LAB.ask_back("node4", (A, 2 * BLOCK)) == ""
    wait_until(lambda: LAB.daemon("node4", "extents")[0]["asked_back"], "remembered")
    LAB.unmap("node4", "user")
    assert LAB.extents("node4") == {}
    LAB.daemon("node4", "destroy", hex(SERIAL))
    LAB.daemon("node4", "create", hex(SERIAL))


def test_a_part_released_leaves_the_rest_usable() -> None:
    assert LAB.offer("node4", (A, 8 * BLOCK)) == ""
    wait_until(lambda: LAB.holds("node4", (A, 8 * BLOCK)), "accepted")
    LAB.poke("node4", "rest", A, "the rest")
    assert LAB.ask_back("node4", (A + 2 * BLOCK, BLOCK), (A + 6 * BLOCK, BLOCK)) == "", "several parts in one request"
    wait_until(lambda: not LAB.holds("node4", (A + 2 * BLOCK, BLOCK)), "the parts are gone")
    assert LAB.extents("node4") == {A: 2 * BLOCK, A + 3 * BLOCK: 3 * BLOCK, A + 7 * BLOCK: BLOCK}
    assert LAB.peek("node4", "rest", A, 8) == b"the rest"
    LAB.unmap("node4", "rest")


def test_a_region_with_users_stays_and_one_without_gives_everything_back() -> None:
    LAB.poke("node4", "user", A, "x")
    said = LAB.on("node4", f"cxl-datapath dcd destroy {SERIAL:#x} 2>&1 || true")
    assert "is used by user; unmap them first" in said
    LAB.unmap("node4", "user")
    LAB.daemon("node4", "destroy", hex(SERIAL))
    assert "0 length" in LAB.offer("node4", (A, 8 * BLOCK), (0, 0)), "QEMU's probe: all of it is free"
    assert "mem0" in LAB.on("node4", "ls /sys/bus/cxl/devices"), "the kernel's driver has the device again"
    LAB.daemon("node4", "create", hex(SERIAL))


# ---- extents -----------------------------------------------------------------------------------------------------------


def test_several_extents_as_one_request_and_a_mapping_over_two_of_them() -> None:
    assert LAB.offer("node4", (A, BLOCK), (A + BLOCK, BLOCK), (A + 4 * BLOCK, BLOCK)) == ""
    wait_until(lambda: LAB.holds("node4", (A, BLOCK), (A + BLOCK, BLOCK), (A + 4 * BLOCK, BLOCK)), "all of the chain")
    edge = BLOCK - 4
    LAB.program("node4", *mapped("both", A, 2 * BLOCK), f"view[{edge}:{edge + 8}] = b'straddle'")
    found = LAB.program("node4", *mapped("both", A, 2 * BLOCK), f"print(view[{edge}:{edge + 8}])")
    assert "straddle" in found
    said = LAB.on("node4", f"cxl-datapath dcd map {SERIAL:#x} gap {A + BLOCK} {4 * BLOCK} 2>&1 || true")
    assert "is not all accepted" in said
    LAB.unmap("node4", "both")
    assert LAB.ask_back("node4", (A, 2 * BLOCK), (A + 4 * BLOCK, BLOCK)) == ""
    wait_until(lambda: LAB.extents("node4") == {}, "given back")


def test_a_real_devdax_over_the_window() -> None:
    """node4 is booted for it: a plain program maps /dev/dax0.0 at the address in the device, and no /dev/mem is needed."""
    LAB.fabric({"host": "node4", "tag": "dax", "size": "4M", "offset": "256M"})
    LAB.daemon("node4", "map", hex(SERIAL), "dax", str(A), str(2 * BLOCK))
    (row,) = (row for row in LAB.daemon("node4", "mappings") if row["name"] == "dax")
    assert (row["path"], row["offset"]) == ("/dev/dax0.0", A)
    plain = [
        "import mmap, os",
        f"view = mmap.mmap(os.open('/dev/dax0.0', os.O_RDWR), {4 * BLOCK}, offset={A})",
        "view[:5] = b'plain'",
        f"view[{2 * BLOCK}:{2 * BLOCK} + 5] = b'no gate'[:5]",
        f"print(view[:5], view[{2 * BLOCK}:{2 * BLOCK} + 5])",
    ]
    assert "b'plain' b'\\x00\\x00\\x00\\x00\\x00'" in LAB.program("node4", *plain), "the device keeps the rest from it"
    assert LAB.peek("node4", "peek", A, 5) == b"plain"
    LAB.unmap("node4", "dax", "peek")
    LAB.fabric({"host": "node4", "tag": "dax", "state": "absent"})


def test_two_regions() -> None:
    LAB.fabric(
        {"host": "node4", "tag": "low", "size": "2M", "offset": "320M"},
        {"host": "node4", "tag": "high", "region": 1, "size": "2M", "offset": "320M"},
    )
    assert LAB.extents("node4") == {B: BLOCK, REGION + B: BLOCK}
    LAB.poke("node4", "low", B, "low")
    LAB.poke("node4", "high", REGION + B, "high")
    assert (LAB.peek("node4", "low", B, 4), LAB.peek("node4", "high", REGION + B, 4)) == (b"low\0", b"high")
    LAB.unmap("node4", "low", "high")
    gone = [{"host": "node4", "tag": tag, "region": region, "state": "absent"} for tag, region in (("low", 0), ("high", 1))]
    LAB.fabric(*gone)
    assert LAB.extents("node4") == {}


def test_what_is_refused_before_anything_is_offered() -> None:
    wanted = {"host": "node3", "tag": "wrong", "size": "2M"}
    LAB.fabric({**wanted, "offset": "0"}, fails="belongs to node1")
    LAB.fabric({**wanted, "offset": "128M"}, fails="is taken")
    LAB.fabric({**wanted, "offset": "1M"}, fails="not aligned")
    LAB.fabric({**wanted, "offset": "511M"}, fails="not aligned")
    LAB.fabric({**wanted, "offset": "510M", "size": "4M"}, fails="beyond the region")
    LAB.fabric({**wanted, "region": 2}, fails="has no region 2")
    LAB.fabric({**wanted, "device": "pool1"}, fails="as in the topology")
    LAB.fabric({**wanted, "host": "node9"}, fails="node9")
    LAB.fabric({"host": "node3", "tag": "other", "state": "absent", "offset": "128M"}, fails="is the extent own")
    assert LAB.extents("node3") == {128 * MIB: 128 * MIB}
    assert "already accessible" in LAB.offer("node3", (128 * MIB, BLOCK))
    assert LAB.ask_back("node3", (128 * MIB, BLOCK), force=True) == "Forced removal not supported yet"


def test_no_more_offers_wait_than_the_event_log_holds() -> None:
    pid = LAB.on("node4", "systemctl", "show", "-P", "MainPID", "cxl-datapathd").strip()
    LAB.on("node4", "kill", "-STOP", pid)
    offers = [{"host": "node4", "tag": f"t{n}", "size": "2M", "offset": f"{320 + 4 * n}M"} for n in range(9)]
    try:
        LAB.fabric(*offers, fails="8 offers to node4 are pending", wait=False)
    finally:
        LAB.on("node4", "kill", "-CONT", pid)
    wait_until(lambda: len(LAB.extents("node4")) == 8, "the eight are accepted")
    LAB.fabric(*offers)
    assert len(LAB.extents("node4")) == 9
    LAB.fabric(*({**offer, "state": "absent"} for offer in offers))
    assert LAB.extents("node4") == {}


# ---- sharing -----------------------------------------------------------------------------------------------------------


def test_a_shared_extent_is_one_memory_until_it_is_released() -> None:
    LAB.poke("node1", "writer", COMMON, "written by node1")
    assert LAB.peek("node2", "reader", COMMON, 16) == b"written by node1"
    LAB.unmap("node2", "reader")
    LAB.fabric({"host": "node2", "region": 1, "tag": "common", "state": "absent"})
    assert LAB.look("node2", COMMON, 16) == bytes(16), "not readable after the release"
    assert LAB.peek("node1", "writer", COMMON, 16) == b"written by node1"
    LAB.fabric({"host": "node2", "region": 1, "tag": "common", "size": "64M", "shared": True})
    assert LAB.peek("node2", "reader", COMMON, 16) == b"written by node1", "beside its twin, wherever that is"
    LAB.unmap("node1", "writer")
    LAB.unmap("node2", "reader")


def test_move_with_what_is_in_it() -> None:
    LAB.poke("node1", "before", 0, "kept")
    LAB.unmap("node1", "before")
    move = ["-e", "dcd_move_tag=own", "-e", "dcd_move_from=node1", "-e", "dcd_move_to=node4"]
    assert LAB.playbook("playbooks/dcd_move.yml", *move, "-e", "dcd_move_keep=true")[0] == 0
    assert LAB.peek("node4", "after", 0, 4) == b"kept" and not LAB.holds("node1", (0, BLOCK))


def test_two_heads_race_for_one_range() -> None:
    code, output = run(race(LAB, 1000))
    wins = [int(text) for text in output.replace("}", "").replace(",", "").split() if text.isdigit()]
    assert code == 0 and sum(wins) == 1000


# ---- deaths ------------------------------------------------------------------------------------------------------------


def test_a_restart_of_the_daemon_keeps_mappings_usable() -> None:
    """A program that has a range mapped goes on through the death of the daemon, and so does the block device's transport."""
    writer = LAB.program_in_background(
        "node4",
        *mapped("after", 0, BLOCK),
        "import time",
        "end = time.monotonic() + 40",
        "count = 0",
        "while time.monotonic() < end:",
        "    count += 1",
        "    view[64:72] = count.to_bytes(8, 'little')",
        "    assert int.from_bytes(view[64:72], 'little') == count, count",
        "    time.sleep(0.01)",
        "print('wrote', count)",
    )
    held = LAB.extents("node4")
    LAB.on("node4", "systemctl", "kill", "-s", "KILL", "cxl-datapathd")
    LAB.await_daemon("node4")
    assert LAB.extents("node4") == held
    assert LAB.peek("node4", "after", 0, 4) == b"kept"
    said = writer.communicate()[0]
    assert writer.returncode == 0 and "wrote" in said, said


def test_a_daemon_that_is_killed_between_event_and_answer() -> None:
    pid = LAB.on("node3", "systemctl", "show", "-P", "MainPID", "cxl-datapathd").strip()
    LAB.on("node3", "kill", "-STOP", pid)
    LAB.fabric({"host": "node3", "tag": "late", "size": "2M", "offset": "256M"}, wait=False)
    LAB.on("node3", "kill", "-KILL", pid)
    LAB.await_daemon("node3")
    wait_until(lambda: LAB.holds("node3", (A, BLOCK)), "the next daemon answers")
    LAB.fabric({"host": "node3", "tag": "late", "size": "2M", "offset": "256M"})
    LAB.fabric({"host": "node3", "tag": "late", "state": "absent"})


def test_a_fabric_manager_that_is_killed_between_claim_and_offer() -> None:
    code, _ = run(manager_that_dies(LAB, "node3", "half"))
    assert code == -9
    assert "stale" in LAB.heads("mhsld_info"), "a claim that no machine holds"
    repaired = LAB.heads("mhsld_state", repair=True)
    assert "repair: stale 32M at 0x18000000 of node3" in repaired
    assert "stale" not in LAB.heads("mhsld_info")
    LAB.fabric({"host": "node3", "tag": "half", "size": "32M", "offset": "384M"})
    assert LAB.holds("node3", (384 * MIB, 32 * MIB)), "the next run goes on from there"
    LAB.fabric({"host": "node3", "tag": "half", "state": "absent"})


def test_a_machine_that_is_reset_finds_its_extents() -> None:
    """A reset: QEMU goes on and remembers what was accepted; the guest starts from nothing."""
    before = LAB.boot_id("node4")
    LAB.virsh("reset", LAB.domain("node4"))
    wait_until(lambda: LAB.boot_id("node4") not in ("", before), "node4 is back", patience_s=600)
    LAB.await_daemon("node4")
    assert LAB.peek("node4", "after", 0, 4) == b"kept"
    assert "stale" not in LAB.heads("mhsld_info")


def test_a_machine_that_is_started_anew_and_the_audit() -> None:
    LAB.virsh("destroy", LAB.domain("node4"))
    LAB.virsh("start", LAB.domain("node4"))
    wait_until(lambda: LAB.boot_id("node4"), "node4 is back", patience_s=600)
    assert "stale" in LAB.heads("mhsld_info"), "its extents are gone, its claims are not"
    LAB.heads("mhsld_state", repair=True)
    assert "stale" not in LAB.heads("mhsld_info")
    LAB.await_daemon("node4")
    LAB.fabric({"host": "node4", "tag": "own", "size": "128M", "offset": "0"})
    assert LAB.peek("node4", "after", 0, 4) == b"kept", "what was lost is offered again, and the data was only out of reach"


# ---- figures and the end -----------------------------------------------------------------------------------------------


def test_how_long_an_answer_takes() -> None:
    """Prints the distribution; docs/dcd.md has it."""
    code, output = run([sys.executable, str(ROOT / "tests/scenarios/dcd_latency.py"), LAB.name, "node3"])
    assert code == 0 and "add to accepted" in output


def test_a_policy_balances_the_hosts() -> None:
    """Each has 128M; what node3 gets in addition is shared out, and then there is nothing left to move."""
    places = {"p": "256M", "q": "384M"}
    LAB.fabric(*({"host": "node3", "tag": tag, "size": "64M", "offset": place} for tag, place in places.items()))
    code, output = LAB.playbook("playbooks/dcd_balance.yml", "-e", "dcd_move_keep=true")
    assert code == 0 and "p from node3 to node1" in output
    assert sum(LAB.extents("node3").values()) == sum(LAB.extents("node1").values()) == 192 * MIB
    code, output = LAB.playbook("playbooks/dcd_balance.yml")
    assert (code, changed(output)) == (0, 0)


def test_the_time_line_tells_what_happened() -> None:
    code, output = LAB.playbook("playbooks/dcd_timeline.yml")
    assert code == 0
    assert "fabric  node3 pool0 region 0 0x8000000+0x8000000 tag own: accepted" in output
    assert "node2   release ignored" in output


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == [] and not Path(f"/var/lib/cxl-lab-dcd/{LAB.name}").exists()
