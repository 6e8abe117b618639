# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory "switched" on a real virtual machine: bytes lie where they have to, and a host that runs can be changed.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenario import ROOT, VmLab, changed, wait_until

LAB = VmLab("molecule_switched", inventory="switched")
MIB = 1 << 20
#: Where the data of a namespace with its page structures in memory begins, over all ways.
DATA = 2 * MIB
#: Writes 4 MiB in which every 8 bytes are the number of the word, and reads them back through a mapping of its own.
PROGRAM = """
import mmap, os, struct, sys
size = 4 << 20
words = struct.pack(f"<{size // 8}Q", *range(size // 8))
descriptor = os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(descriptor, size) as mapping:
    mapping[:] = words
with mmap.mmap(descriptor, size) as mapping:
    print(mapping[:] == words)
"""


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def listed(*command: str) -> list[dict]:
    return json.loads(LAB.on("node1", *command) or "[]")


def regions() -> dict[int, dict]:
    """The regions by the number of their memdevs."""
    return {len(row["mappings"]): row for row in listed("cxl", "list", "-R", "-T") if row["type"] == "pmem"}


def namespace(name: str) -> str:
    """The device of a namespace."""
    rows = listed("ndctl", "list", "-N", "-v")
    (row,) = [row for row in rows if row.get("name") == name]
    return f"/dev/{row['daxregion']['devices'][0]['chardev']}"


def serials_in_order(region: dict) -> list[int]:
    serials = {row["memdev"]: row["serial"] for row in listed("cxl", "list", "-M")}
    return [serials[row["memdev"]] for row in sorted(region["mappings"], key=lambda row: row["position"])]


def test_the_lab_comes_up() -> None:
    code, output = LAB.playbook("site.yml")
    assert code == 0, output


def test_the_second_run_changes_nothing() -> None:
    code, output = LAB.playbook("site.yml")
    assert (code, changed(output)) == (0, 0)


def test_the_guest_sees_the_fabric() -> None:
    assert sorted(row["serial"] for row in listed("cxl", "list", "-M")) == [0xC0DE0000 + n for n in range(1, 8)]
    assert sorted(row["interleave_ways"] for row in listed("cxl", "list", "-D", "-d", "root")) == [1, 1, 2]
    assert {ways: row["interleave_granularity"] for ways, row in regions().items()} == {4: 512, 2: 1024}
    assert set(serials_in_order(regions()[4])) == {0xC0DE0001, 0xC0DE0002, 0xC0DE0003, 0xC0DE0004}
    assert set(serials_in_order(regions()[2])) == {0xC0DE0005, 0xC0DE0006}


def test_the_tools_print_what_the_parsers_were_tested_with() -> None:
    """After a wanted change: RECORD=1 pytest tests/scenarios/test_switched.py"""
    file = ROOT / "tests/fixtures/switched_lists.json"
    recorded = json.loads(file.read_text())
    told = {command: listed(*command.split()) for command in recorded}
    if os.environ.get("RECORD"):
        file.write_text(json.dumps(told, indent=1) + "\n")
    for command, rows in told.items():
        keys, known = ({key for row in lists for key in row} for lists in (rows, recorded[command]))
        assert known <= keys, f"{command} has other keys, or fewer"
    assert len(told["cxl list -R -T -i"]) == 3


def test_volatile_memory_is_there_and_not_in_use() -> None:
    assert [row["decode_state"] for row in listed("cxl", "list", "-R") if row["type"] == "ram"] == ["commit"]
    states = LAB.on("node1", "sh", "-c", "'cat /sys/devices/system/memory/memory*/state | sort -u'").split()
    assert "offline" in states


@pytest.mark.parametrize(("name", "ways", "granularity"), [("quad", 4, 512), ("pair", 2, 1024)])
def test_each_byte_lies_in_the_right_file_at_the_right_offset(name: str, ways: int, granularity: int) -> None:
    LAB.on("node1", "sh", "-c", f"'cat > /tmp/words.py <<EOF\n{PROGRAM}\nEOF'")
    assert LAB.on("node1", "python3", "/tmp/words.py", namespace(name)).strip() == "True"
    order = serials_in_order(regions()[ways])
    files = {0xC0DE0001 + n: device for n, device in enumerate(("s0", "s1", "s2", "s3", "m0", "m1"))}
    opened = [Path(f"/dev/shm/cxl-lab.{LAB.name}.{files[serial]}").read_bytes() for serial in order]
    for word in range(0, 4 * MIB // 8, 61):
        address = DATA + 8 * word
        turn, within = divmod(address, granularity)
        offset = turn // ways * granularity + within
        found = int.from_bytes(opened[turn % ways][offset : offset + 8], "little")
        assert found == word, f"word {word} at {offset:#x} of {files[order[turn % ways]]}"


#: A device that comes and goes, and its serial number.
HOT, HOT_SERIAL = {"name": "hot0", "size": "256M", "parent": "b"}, "0xc0de1001"
#: Maps a device, writes a word where there is one, and stays until its input ends where there are two.
HOLD = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(descriptor, 2 << 20) as mapping:
    if len(sys.argv) > 2:
        mapping[:5] = sys.argv[2].encode()
    print(mapping[:5].decode(errors="replace"), flush=True)
    if len(sys.argv) > 3:
        import time
        time.sleep(1000)
"""


def device(state: str, **options: object) -> dict:
    return LAB.module(
        "hypervisor", "cxl_device", lab=LAB.name, host="node1", devices=[options.pop("device", HOT)], state=state, **options
    )


def hot_memory() -> str:
    """Makes the region and the namespace of the attached device; returns its device on the host."""
    for name, more in (("cxl_region", {}), ("cxl_namespace", {"name": "hot"})):
        result = LAB.module("node1", name, serial=HOT_SERIAL, **more)
        assert not result["failed"], result
    return namespace("hot")


def word(path: str, *given: str) -> str:
    LAB.on("node1", "sh", "-c", f"'cat > /tmp/hold.py <<EOF\n{HOLD}\nEOF'")
    return LAB.on("node1", "python3", "/tmp/hold.py", path, *given).strip()


def test_a_device_comes_to_the_running_host_once() -> None:
    result = device("present")
    assert result["changed"] and result["devices"][0]["serial"] == HOT_SERIAL, result
    assert device("present")["changed"] is False
    assert word(hot_memory(), "hello") == "hello"
    assert (Path(f"/dev/shm/cxl-lab.{LAB.name}.hot0").read_bytes())[DATA : DATA + 5] == b"hello"


def test_while_somebody_maps_it_it_stays() -> None:
    holder = LAB.background("node1", "python3", "/tmp/hold.py", namespace("hot"), "hello", "stay")
    assert holder.stdout is not None and holder.stdout.readline().strip() == "hello"
    refused = device("absent")
    assert refused["failed"] and "is in use" in refused["msg"], refused
    LAB.on("node1", "pkill", "-f", "hold.py")
    holder.wait()


def test_it_goes_and_comes_back_with_its_data() -> None:
    assert device("absent")["changed"]
    assert int(HOT_SERIAL, 16) not in [row["serial"] for row in listed("cxl", "list", "-M")]
    assert device("absent")["changed"] is False
    assert not device("present")["failed"]
    assert word(hot_memory()) == "hello"
    assert not device("absent")["failed"]


def test_another_device_at_the_same_addresses_has_its_own_bytes() -> None:
    other = {**HOT, "name": "hot1", "serial": "0xc0de1002"}
    assert not device("present", device=other)["failed"]
    assert not LAB.module("node1", "cxl_region", serial="0xc0de1002")["failed"]
    assert not LAB.module("node1", "cxl_namespace", serial="0xc0de1002", name="other")["failed"]
    assert word(namespace("other"), "other") == "other"
    files = [Path(f"/dev/shm/cxl-lab.{LAB.name}.{name}").read_bytes()[DATA : DATA + 5] for name in ("hot0", "hot1")]
    assert files == [b"hello", b"other"]
    assert not device("absent", device=other)["failed"]


def test_the_first_device_has_its_own_bytes_again() -> None:
    """QEMU takes a mapping away with its device, and what the host remembers of it must go with it."""
    assert not device("present")["failed"]
    assert word(hot_memory()) == "hello"
    assert not device("absent")["failed"]


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        ("poison", "cxl_poison"),
        ("correctable", "cxl_aer_correctable_error"),
        ("general_media", "cxl_general_media"),
        ("dram", "cxl_dram"),
        ("memory_module", "cxl_memory_module"),
    ],
)
def test_the_kernel_sees_each_kind_of_error(kind: str, event: str) -> None:
    result = LAB.module("hypervisor", "cxl_error", lab=LAB.name, host="node1", device="m0", kind=kind)
    assert not result["failed"], result
    assert {seen["event"] for seen in result["seen"]} == {event}
    assert bool(result["poison"])
    assert result["listed"]["serial"] == 0xC0DE0005


def types_over(serial: int) -> list[str]:
    """Of the regions over a memdev; cxl list -R -s names those of its whole bridge."""
    names = {row["memdev"] for row in listed("cxl", "list", "-M") if row["serial"] == serial}
    rows = listed("cxl", "list", "-R", "-T")
    return sorted(row["type"] for row in rows if names & {mapping["memdev"] for mapping in row["mappings"]})


def test_a_device_of_both_kinds_has_a_region_of_each(tmp_path: Path) -> None:
    serial = "0xc0de1003"
    both = {"name": "both", "size": "256M", "volatile": "256M", "serial": serial, "parent": "b"}
    assert not device("present", device=both)["failed"]
    play = tmp_path / "memory.yml"
    variables = {"cxl_memory_regions": [{"serial": serial}, {"serial": serial, "type": "ram"}], "cxl_memory_namespaces": []}
    for state, changes, types in (("present", 1, ["pmem", "ram"]), ("present", 0, ["pmem", "ram"]), ("absent", 1, [])):
        role = {"role": "cxl_memory", "vars": {**variables, "cxl_memory_state": state}}
        play.write_text(json.dumps([{"hosts": "node1", "gather_facts": False, "become": True, "roles": [role]}]))
        code, output = LAB.playbook(str(play))
        assert (code, changed(output)) == (0, changes), output
        assert types_over(int(serial, 16)) == types
    assert not device("absent", device=both)["failed"]


def test_volatile_memory_becomes_system_ram_and_a_device_again() -> None:
    before = int(LAB.on("node1", "awk", "'/MemTotal/ {print $2}'", "/proc/meminfo"))
    result = LAB.module("node1", "cxl_dax", serial="0xc0de0007", mode="system-ram", online="online_movable")
    assert result["changed"] and result["dax"]["online"] == "online_movable", result
    assert int(LAB.on("node1", "awk", "'/MemTotal/ {print $2}'", "/proc/meminfo")) > before
    assert LAB.module("node1", "cxl_dax", serial="0xc0de0007", mode="system-ram")["changed"] is False
    result = LAB.module("node1", "cxl_dax", serial="0xc0de0007", mode="devdax")
    assert result["dax"]["device"].startswith("/dev/dax"), result


def test_status_and_diagnostics_tell_of_it(tmp_path: Path) -> None:
    code, output = LAB.playbook("playbooks/status.yml", "-e", f"cxl_status_file={tmp_path}/status.json")
    assert code == 0 and "quad devdax" in output
    (host,) = json.loads((tmp_path / "status.json").read_text())["hosts"].values()
    assert len(host["memdevs"]) == 7 and host["problems"] == []
    code, _ = LAB.playbook("playbooks/collect.yml", "-e", f"cxl_collect_dir={tmp_path}")
    assert code == 0
    names = set()
    for file in ("node1", "hypervisor"):
        with tarfile.open(tmp_path / f"{file}.tar.gz") as archive:
            names |= set(archive.getnames())
    assert {"node1/dmesg.txt", "machines/node1/serial.log", "machines/node1/mtree.txt"} <= names


def test_a_device_that_was_pulled_has_leaked_until_the_machine_was_off() -> None:
    assert not device("present")["failed"]
    holder = LAB.background("node1", "python3", "/tmp/hold.py", hot_memory(), "again", "stay")
    assert holder.stdout is not None and holder.stdout.readline().strip() == "again"
    assert [leak["name"] for leak in device("absent", force=True)["leaked"]] == ["hot0"]
    holder.kill()
    refused = device("present")
    assert refused["failed"] and "leaked" in refused["msg"], refused
    for state in ("off", "on"):
        assert not LAB.module("hypervisor", "cxl_power", lab=LAB.name, hosts=["node1"], state=state)["failed"]
    wait_until(lambda: LAB.boot_id("node1"), "node1 is back")
    assert not device("present")["failed"]


def test_an_uncorrectable_error_is_seen_before_the_host_gives_the_device_up() -> None:
    result = LAB.module("hypervisor", "cxl_error", lab=LAB.name, host="node1", device="hot0", kind="uncorrectable")
    assert not result["failed"], result
    assert {seen["event"] for seen in result["seen"]} == {"cxl_aer_uncorrectable_error"}
    assert "Memory Data ECC Error" in result["seen"][0]["text"], "what was injected is what the kernel names"


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
