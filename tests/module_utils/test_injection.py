# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of a device: arguments against the recorded schema of QEMU 11.1, and what a kernel tells."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import injection
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.poison import covers, parse_poison
from ansible.module_utils.cxl_lab.qmp_schema import QmpSchema
from dcd_devices import EMULATORS, stopped_qemu
from fakes import fixture
from hypothesis import given
from hypothesis import strategies as st

SCHEMA = QmpSchema(fixture("qmp_schema_cxl"))


def without(argument: str) -> QmpSchema:
    """The schema of a QEMU that does not know an argument yet."""
    rows = copy.deepcopy(fixture("qmp_schema_cxl"))
    for row in rows:
        row["members"] = [member for member in row.get("members", []) if member["name"] != argument]
    return QmpSchema(rows)


@pytest.mark.parametrize("kind", injection.KINDS)
def test_every_kind_is_complete_by_itself(kind):
    command, arguments = injection.build(SCHEMA, kind, "m0", {})
    assert SCHEMA.problems(command, arguments) == []
    assert arguments["path"] == "/machine/peripheral/cxl-dev.m0"


@pytest.mark.parametrize("kind", ["general_media", "dram", "memory_module"])
def test_a_default_that_an_older_qemu_does_not_know_is_left_out(kind):
    assert "sub-type" in injection.build(SCHEMA, kind, "m0", {})[1]
    assert "sub-type" not in injection.build(without("sub-type"), kind, "m0", {})[1]


def test_what_the_user_gives_takes_the_place_of_the_default():
    _, arguments = injection.build(SCHEMA, "dram", "m0", {"log": "fatal", "transaction_type": 2, "correction-mask": [1, 2]})
    assert (arguments["log"], arguments["transaction-type"], arguments["correction-mask"]) == ("fatal", 2, [1, 2])


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("poison", {"start": 1}, "start is 1, and no multiple of 64"),
        ("poison", {"length": "64"}, "length is '64', and no int"),
        ("poison", {"length": True}, "length is True, and no int"),
        ("poison", {"size": 64}, "size is unknown, use path, start, length"),
        ("poison", {"path": "/machine"}, "path follows from the device"),
        ("correctable", {"type": "bad luck"}, "type is 'bad luck', use one of cache-data-ecc, mem-data-ecc"),
        ("uncorrectable", {"errors": {}}, "errors is {}, and no list"),
        ("uncorrectable", {"errors": [{"type": "internal"}]}, r"errors\[0\]\.header is missing"),
        ("uncorrectable", {"errors": [{"type": "internal", "header": ["a"]}]}, r"errors\[0\]\.header\[0\] is 'a', and no int"),
        ("uncorrectable", {"errors": [7]}, r"errors\[0\] is 7, and no mapping"),
        ("dram", {"is_comp_id_pldm": 1}, "is-comp-id-pldm is 1, and no boolean"),
        ("dram", {"log": "loud", "rank": "x"}, "log is 'loud', use one of .*; rank is 'x'"),
    ],
)
def test_what_this_qemu_would_not_take(kind, given, words):
    with pytest.raises(LabError, match=words) as caught:
        injection.build(SCHEMA, kind, "m0", given)
    assert "cxl_error_info" in caught.value.next_step


def test_a_qemu_without_the_command():
    rows = [row for row in fixture("qmp_schema_cxl") if row["name"] != "cxl-inject-dram-event"]
    with pytest.raises(LabError, match="has no command cxl-inject-dram-event"):
        injection.build(QmpSchema(rows), "dram", "m0", {})
    assert "dram" not in injection.describe(QmpSchema(rows)) and "poison" in injection.describe(QmpSchema(rows))


def test_what_a_user_is_told():
    told = injection.describe(SCHEMA)
    assert set(told) == set(injection.KINDS)
    assert told["poison"]["arguments"] == {
        "start": {"required": True, "type": "int"},
        "length": {"required": True, "type": "int"},
    }
    assert told["correctable"]["arguments"]["type"]["choices"][0] == "cache-data-ecc"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["path", "start", "length", "type", "errors", "log", "dpa", "sub-type", "x"])


@given(st.sampled_from(list(injection.KINDS)), st.dictionaries(keys, values, max_size=5))
def test_anything_is_either_taken_or_refused_with_reasons(kind, given):
    try:
        command, arguments = injection.build(SCHEMA, kind, "m0", given)
    except LabError as error:
        assert error.problem and error.next_step
    else:
        assert SCHEMA.problems(command, arguments) == []


@pytest.mark.parametrize("rows", [None, {}, [1], [{"meta-type": "command"}]])
def test_what_is_no_schema(rows):
    with pytest.raises(LabError, match="query-qmp-schema"):
        QmpSchema(rows)


def test_poison_records():
    records = parse_poison([{"memdev": "mem0", "media_errors": [{"offset": 4096, "length": 128, "source": "Injected"}]}])
    assert records == [{"offset": 4096, "length": 128, "source": "Injected"}]
    assert covers(records, 4096, 64) and covers(records, 4160, 64)
    assert not covers(records, 4032, 64) and not covers(records, 4160, 128) and not covers([], 0, 64)
    assert parse_poison([{"memdev": "mem0"}]) == []
    with pytest.raises(LabError, match="no list"):
        parse_poison("text")


def test_what_a_kernel_tells():
    trace = """# tracer: nop
#           TASK-PID     CPU#
 irq/42-75 [001] ..... 10.1: cxl_aer_correctable_error: memdev=mem0 host=0000:0d:00.0 serial=5: status: 'Memory Data ECC Error'
 cat-99 [000] ..... 9.9: cxl_poison: memdev=mem1 host=0000:0e:00.0 serial=6 trace_type=List dpa=0x40 dpa_length=0x40
 cat-99 [000] ..... 9.9: sched_switch: prev=cat
"""
    first, second = injection.parse_trace(trace)
    assert (first["event"], first["memdev"], first["fields"]["serial"]) == ("cxl_aer_correctable_error", "mem0", "5")
    assert second["fields"] == {
        **{"memdev": "mem1", "host": "0000:0e:00.0", "serial": "6", "trace_type": "List", "dpa": "0x40", "dpa_length": "0x40"}
    }
    assert injection.about([first, second], "poison", "mem1") == [second]
    assert injection.about([first, second], "poison", "mem0") == []


@pytest.mark.skipif(not EMULATORS, reason="no QEMU tree in /var/cache/cxl-lab; the role cxl_hypervisor builds it")
def test_a_real_qemu_takes_every_kind_with_its_defaults():
    """Its guest never runs, so that nobody hears of it."""
    with (
        tempfile.TemporaryDirectory(prefix="cxl-test-", dir="/dev/shm") as folder,
        stopped_qemu(Path(folder) / "pool0") as real,
    ):
        schema = QmpSchema(real.execute("query-qmp-schema", {}))
        assert set(injection.describe(schema)) == set(injection.KINDS)
        for kind in injection.KINDS:
            command, arguments = injection.build(schema, kind, "pool0", {})
            assert real.execute(command, arguments) == {}, kind
