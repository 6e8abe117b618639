# SPDX-License-Identifier: GPL-3.0-or-later
"""A pool's bytes: what a format writes, what a probe takes, what a checker finds, and what cut-short changes leave."""

from __future__ import annotations

import json
import re
import struct
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ram import Crash, Ram
from test_format_header import ask, offsets

from cxl_datapath.cli import main
from cxl_datapath.core import crc32c
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.kmem_blk import format as pool_format
from cxl_datapath.kmem_blk import layout
from cxl_datapath.kmem_blk.check import check, repair
from cxl_datapath.kmem_blk.format import (
    check_may_format,
    drop_range,
    plan_format,
    plan_range,
    probe,
    read_index,
    read_range,
    read_superblock,
    read_table,
    write_format,
    write_range,
)
from cxl_datapath.kmem_blk.layout import PAGE, Superblock
from cxl_datapath.kmem_blk.pages import Counts, PoolConf, RangeConf, VolumeConf

CORE = Path(__file__).parent.parent / "core"
PAGES = 600


def formatted(thick: bool = False, pages: int = PAGES) -> Ram:
    memory = Ram(pages * PAGE)
    write_format(memory, plan_format(memory.size, "pool0", spare=4), thick)
    return memory


def set_entry(memory: Ram, block: int, page: int) -> None:
    memory.write(PAGE + 8 * block, struct.pack("<Q", page))


# ---- layout ---------------------------------------------------------------------------------------------------------


def test_python_and_c_agree(tmp_path):
    structs = {
        "kmb_superblock": (
            layout.SUPERBLOCK,
            "magic type version crc num_pages num_index_pages num_index_entries spare_pages uuid name",
        ),
        "kmb_table_entry": (layout.TABLE_ENTRY, "pages first uuid"),
        "kmb_range_header": (layout.RANGE_HEADER, "magic version crc zero first pages pool uuid"),
    }
    asked = {
        "KMB_MAGIC_POOL": int.from_bytes(layout.MAGIC_POOL, "little"),
        "KMB_MAGIC_RANGE": int.from_bytes(layout.MAGIC_RANGE, "little"),
        "KMB_TYPE_BLK": layout.TYPE_BLK,
        "KMB_VERSION": layout.VERSION,
        "KMB_TABLE_OFF": layout.TABLE_OFF,
        "KMB_TABLE_ENTRIES": layout.TABLE_ENTRIES,
    }
    for name, (fields, members) in structs.items():
        asked[f"sizeof(struct {name})"] = fields.size
        for member, offset in zip(members.split(), offsets(fields), strict=True):
            asked[f"offsetof(struct {name}, {member})"] = offset
    assert ask(tmp_path, "kmem_blk_format.h", asked) == asked


def test_ctypes_and_c_agree(tmp_path):
    asked = {"KMB_PAGE": PAGE, "KMB_INDEX_ENTRIES": layout.INDEX_ENTRIES, "KMB_MAX_RANGES": layout.TABLE_ENTRIES + 1}
    mirrors = {"kmb_pool_conf": PoolConf, "kmb_range_conf": RangeConf, "kmb_counts": Counts, "kmb_volume_conf": VolumeConf}
    for name, mirror in mirrors.items():
        asked[f"sizeof(struct {name})"] = struct_size(mirror)
        for field, *_ in mirror._fields_:
            asked[f"offsetof(struct {name}, {field})"] = getattr(mirror, field).offset
    assert ask(tmp_path, "kmem_blk.h", asked) == asked


def struct_size(mirror: type) -> int:
    import ctypes

    return ctypes.sizeof(mirror)


@given(st.integers(layout.PAGES_MIN, 1 << 40))
def test_the_counts_fill_the_memory(pages):
    made = Superblock(pages, 4, uuid.UUID(int=1), "p")
    assert 1 + made.num_index_pages + made.num_index_entries == pages
    assert made.num_index_entries <= made.num_index_pages * 512
    assert made.num_index_entries > (made.num_index_pages - 1) * 512 - 1


# ---- format and probe -------------------------------------------------------------------------------------------------


def test_thin_is_holes_and_thick_names_every_page():
    assert set(read_index(formatted(), read_superblock(formatted(), "m"))) == {0}
    memory = formatted(thick=True)
    superblock = read_superblock(memory, "m")
    assert (superblock.num_pages, superblock.num_index_pages) == (PAGES - 4, 2)
    assert list(read_index(memory, superblock)) == list(range(3, PAGES - 4))
    rest = memory.read(PAGE + 8 * superblock.num_index_entries, 8 * (1024 - superblock.num_index_entries))
    assert not any(rest)
    assert check(memory).problems == () and check(memory).mapped == superblock.num_index_entries


def test_what_a_probe_says():
    assert probe(Ram(PAGES * PAGE)) == pool_format.Probe(False, "", None, "")
    foreign = Ram(PAGES * PAGE)
    foreign.write(0, b"XFSB")
    assert probe(foreign).foreign == "an XFS file system"
    with pytest.raises(DatapathError) as caught:
        check_may_format(foreign, "m", force=False)
    assert caught.value.code == Code.EXISTS
    check_may_format(foreign, "m", force=True)
    foreign.write(0, b"some")
    assert "unknown" in probe(foreign).foreign
    with pytest.raises(DatapathError):
        check_may_format(formatted(), "m", force=False)
    with pytest.raises(DatapathError) as caught:
        read_superblock(Ram(PAGES * PAGE), "m")
    assert caught.value.code == Code.NOT_FOUND
    with pytest.raises(DatapathError) as caught:
        plan_format(19 * PAGE, "m", spare=4)
    assert caught.value.code == Code.RANGE


def sealed(**fields: object) -> Ram:
    """A pool whose superblock has other numbers and a right checksum."""
    memory = formatted()
    names = ("magic", "type", "version", "crc", "num_pages", "index_pages", "entries", "spare", "uuid", "name")
    values = dict(zip(names, layout.SUPERBLOCK.unpack(memory.read(0, layout.SUPERBLOCK.size)), strict=True))
    raw = layout.SUPERBLOCK.pack(*{**values, **fields, "crc": 0}.values())
    memory.write(0, raw[:12] + struct.pack("<I", crc32c(raw)) + raw[16:])
    return memory


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"type": 2}, "type 2"),
        ({"version": 9}, "version 9"),
        ({"num_pages": PAGES}, "entries do not belong"),
        ({"index_pages": 1}, "entries do not belong"),
        ({"entries": 1}, "entries do not belong"),
        ({"num_pages": 0}, "not possible"),
        ({"spare": 0}, "not possible"),
        ({"spare": 5}, "was formatted for"),
        ({"num_pages": 1 << 60}, "not possible"),
        ({"name": b"../x"}, "is not a name"),
    ],
)
def test_a_superblock_that_lies_is_refused(fields, says):
    memory = sealed(**fields)
    found = probe(memory)
    assert found.formatted and found.superblock is None and says in found.problem
    assert check(memory).fatal
    with pytest.raises(DatapathError):
        read_superblock(memory, "m")


@given(st.binary(min_size=1, max_size=64), st.integers(0, 2047), st.booleans())
def test_fuzzed_superblocks_and_tables_never_crash(noise, offset, fix):
    memory = formatted(pages=40)
    memory.write(offset, noise)
    if fix:  # past the checksum
        raw = memory.read(0, 12) + bytes(4) + memory.read(16, 112)
        memory.write(12, struct.pack("<I", crc32c(raw)))
    found = probe(memory)
    assert found.superblock is None or found.superblock.total_pages <= 40
    report = check(memory)
    if not report.fatal:
        repair(memory, report)
        assert check(memory).problems == ()


@given(st.lists(st.tuples(st.integers(0, 580), st.integers(0, 1 << 64) | st.integers(0, 700)), max_size=40))
def test_fuzzed_indexes_are_found_and_repaired(entries):
    memory = formatted()
    expected: dict[int, int] = {}
    for block, page in entries:
        set_entry(memory, block, page % (1 << 64))
        expected[block] = page % (1 << 64)
    report = check(memory)
    seen: set[int] = set()
    bad = set()
    for block in sorted(expected):
        page = expected[block]
        if page and (not 3 <= page < PAGES or page in seen):
            bad.add(block)
        elif page:
            seen.add(page)
    assert set(report.bad) == bad and bool(report.problems) == bool(bad)
    repair(memory, report)
    index = read_index(memory, read_superblock(memory, "m"))
    assert {page for page in index if page} == seen
    assert check(memory).problems == ()


def test_many_bad_entries_are_summed_up():
    memory = formatted()
    for block in range(100):
        set_entry(memory, block, 1 << 40)
    report = check(memory)
    assert len(report.bad) == 100 and report.problems[-1] == "and 80 more"
    assert re.search(r"block 0 names page 1099511627776", report.problems[0])


@pytest.mark.parametrize("thick", [False, True])
def test_a_format_that_is_cut_short_leaves_no_pool(thick):
    """At every byte: no pool, or the whole new one."""
    old = formatted(thick=True, pages=40)
    plan = plan_format(old.size, "fresh", spare=4)
    for budget in [*range(0, 200), *range(200, 3 * PAGE + 200, 97)]:
        memory = Ram(old.size)
        memory.data[:] = old.data
        memory.budget = budget
        try:
            write_format(memory, plan, thick)
            whole = True
        except Crash:
            whole = False
        memory.budget = None
        found = probe(memory)
        if found.superblock is not None:
            assert found.superblock.name == "fresh" or budget == 0
            assert check(memory).problems == ()
        assert not whole or found.superblock == plan


# ---- ranges ----------------------------------------------------------------------------------------------------------


def test_ranges_come_and_go():
    pool, more = formatted(), Ram(16 * PAGE)
    superblock = read_superblock(pool, "m")
    assert read_table(pool, superblock) == []
    header = plan_range(more, "more", superblock, [], force=False)
    assert (header.first, header.pages) == (PAGES, 16)
    entry = write_range(pool, more, header, [])
    assert read_table(pool, superblock) == [entry] and read_range(more) == header
    with pytest.raises(DatapathError) as caught:
        plan_range(more, "more", superblock, [entry], force=True)
    assert caught.value.code == Code.EXISTS
    second = plan_range(Ram(8 * PAGE), "second", superblock, [entry], force=False)
    assert second.first == PAGES + 16
    set_entry(pool, 0, PAGES + 1)
    assert check(pool).problems == () and check(pool).ranges == 2
    set_entry(pool, 1, PAGES)
    assert check(pool).bad == (1,)
    drop_range(pool, entry)
    assert read_table(pool, superblock) == [] and set(check(pool).unsure) == {0, 1} == set(check(pool, force=True).bad)
    assert plan_range(more, "more", superblock, [], force=False).first == PAGES  # its own remains are no stranger's


def test_what_is_no_range_for_the_pool():
    pool, other = formatted(), formatted()
    superblock = read_superblock(pool, "m")
    for memory in (formatted(), with_range(other)):
        with pytest.raises(DatapathError) as caught:
            plan_range(memory, "more", superblock, [], force=False)
        assert caught.value.code == Code.EXISTS
        plan_range(memory, "more", superblock, [], force=True)
    with pytest.raises(DatapathError) as caught:
        plan_range(Ram(PAGE), "more", superblock, [], force=False)
    assert caught.value.code == Code.RANGE


def with_range(pool: Ram) -> Ram:
    memory = Ram(16 * PAGE)
    write_range(pool, memory, plan_range(memory, "more", read_superblock(pool, "m"), [], force=False), [])
    return memory


DAMAGE = {
    "no pages": (0, b"\0" * 8),
    "fewer pages": (0, b"\x08"),
    "more pages": (1, b"\x01"),
    "other pages": (8, b"\xff\xff"),
    "impossible": (12, b"\xff\xff\xff\xff"),
    "another memory": (16, b"\xff"),
}


@pytest.mark.parametrize(("offset", "noise"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_table_costs_no_block_that_is_good(offset, noise):
    """Blocks in a further memory look wrong when the table is; its header knows better."""
    pool = formatted()
    headers = [read_range(with_range(pool)) for _ in range(1)]
    for block in range(10):
        set_entry(pool, block, PAGES + 1 + block)
    set_entry(pool, 20, 1 << 60)
    good = check(pool)
    assert good.bad == (20,) and not good.unsure and not good.table
    before = bytes(pool.data)
    pool.write(layout.TABLE_OFF + offset, noise)
    alone = check(pool)
    assert alone.problems
    repair(pool, alone)
    assert list(read_index(pool, read_superblock(pool, "m")))[:10] == [PAGES + 1 + block for block in range(10)]
    named = check(pool, headers)
    assert named.table and named.bad in ((), (20,)) and not named.fatal and not named.unsure
    repair(pool, named)
    assert check(pool, headers).problems == () == check(pool).problems
    assert pool.data[: layout.TABLE_OFF + 2048] == before[: layout.TABLE_OFF + 2048]


def test_two_memories_of_which_the_table_lost_one():
    pool = formatted()
    superblock = read_superblock(pool, "m")
    headers, table = [], []
    for _ in range(2):
        memory = Ram(16 * PAGE)
        headers.append(plan_range(memory, "more", superblock, table, force=False))
        table.append(write_range(pool, memory, headers[-1], table))
    set_entry(pool, 3, table[0].first + 5)
    set_entry(pool, 4, table[1].first + 5)
    drop_range(pool, table[0])
    assert check(pool).unsure == (3,) and not check(pool).bad
    assert check(pool, headers[1:]).unsure == (3,), "the other one is not named"
    report = check(pool, headers[:1])
    assert report.table == (table[0],) and not report.bad and not report.unsure
    repair(pool, report)
    assert read_table(pool, superblock) == table and check(pool).problems == ()


def test_an_addition_that_is_cut_short_never_happened():
    pool = formatted(pages=40)
    superblock = read_superblock(pool, "m")
    header = plan_range(Ram(16 * PAGE), "more", superblock, [], force=False)
    for budget in range(0, 33):
        crashed, more = Ram(pool.size), Ram(16 * PAGE)
        crashed.data[:] = pool.data
        crashed.budget = budget
        try:
            write_range(crashed, more, header, [])
        except Crash:
            crashed.budget = None
            table = read_table(crashed, superblock) if budget < 24 else []
            assert table == []
        else:
            assert budget == 32 and len(read_table(crashed, superblock)) == 1


def test_overlapping_ranges_are_refused():
    pool = formatted()
    superblock = read_superblock(pool, "m")
    for slot, (pages, first) in enumerate([(16, PAGES), (16, PAGES + 8)]):
        pool.write(layout.TABLE_OFF + 32 * slot, layout.TABLE_ENTRY.pack(pages, first, bytes(16)))
    with pytest.raises(DatapathError) as caught:
        read_table(pool, superblock)
    assert caught.value.code == Code.CORRUPT
    assert check(pool).fatal


def test_the_checker_as_a_command_fails_until_it_has_repaired(tmp_path, capsys):
    memory = formatted()
    set_entry(memory, 5, 1 << 40)
    file = tmp_path / "pool"
    file.write_bytes(memory.data)
    assert main(["kmem-blk", "check", str(file), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["clean"], said["bad"], said["repaired"]) == (False, 1, 0)
    assert main(["kmem-blk", "check", str(file), "--repair"]) == 0
    said = capsys.readouterr().out
    assert "problems: block 5 names page" in said and "clean: yes" in said and "repaired: 1" in said
    assert main(["kmem-blk", "check", str(file)]) == 0


def test_the_command_takes_further_memories(tmp_path, capsys):
    pool = formatted()
    more = with_range(pool)
    set_entry(pool, 5, PAGES + 3)
    pool.write(layout.TABLE_OFF, bytes(8))
    files = [tmp_path / name for name in ("pool", "more", "other")]
    for file, memory in zip(files, (pool, more, formatted()), strict=True):
        file.write_bytes(memory.data)
    first, second, other = map(str, files)
    assert main(["kmem-blk", "check", first, "--repair"]) == 1
    assert "unsure: 1" in capsys.readouterr().out
    assert main(["kmem-blk", "check", first, other]) == 1
    assert "is no memory of this pool" in capsys.readouterr().err
    assert main(["kmem-blk", "check", first, second, "--repair"]) == 0
    assert "table: 0" in capsys.readouterr().out
    assert main(["kmem-blk", "check", first]) == 0
