# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory "switched" on a real virtual machine: what is written through an interleaved region lies where it has to.

The steps build on each other and run in the order of this file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from scenario import VmLab, changed

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


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
