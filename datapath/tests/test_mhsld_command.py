# SPDX-License-Identifier: GPL-3.0-or-later
"""`cxl-datapath mhsld`, as a person and as a module calls it."""

from __future__ import annotations

import io
import json

import pytest

from cxl_datapath.cli import main


@pytest.fixture
def mhsld(tmp_path, monkeypatch, capsys):
    """Runs a verb on one state file; the answer, or the message of the error."""

    def run(verb, *arguments, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        lines = []
        code = main(["mhsld", verb, str(tmp_path / "s"), *arguments, "--json"], lines.append)
        return json.loads(lines[0]) if code == 0 else capsys.readouterr().err

    return run


@pytest.fixture
def pool(mhsld):
    assert mhsld("create", "--size", "512M", "--heads", "4", "--names", "node1,node2")["created"] is True
    return mhsld


def test_create_twice(pool):
    again = pool("create", "--size", "512M", "--heads", "4", "--names", "node1,node2")
    assert again["created"] is False and again["heads"] == ["node1", "node2", "2", "3"] and again["size"] == 512 << 20
    assert "is there with 4 heads and 256 blocks" in pool("create", "--size", "1G", "--heads", "4")
    assert "names for 1 heads" in pool("create", "--size", "1G", "--heads", "1", "--names", "a,b")
    assert "65 heads are not possible" in pool("create", "--size", "1G", "--heads", "9999999999")


def test_claim_conflict_release_clear(pool):
    claimed = pool("claim", "node1", "0:128M", "256M:2M")["claims"]
    assert claimed == [
        {"offset": 0, "length": 128 << 20, "heads": ["node1"], "shared": False},
        {"offset": 256 << 20, "length": 2 << 20, "heads": ["node1"], "shared": False},
    ]
    assert "head node2: block 63 (at 0x7e00000) belongs to node1" in pool("claim", "1", "126M:4M")
    assert pool("release", "node1", "0:64M")["released_blocks"] == 32
    assert pool("clear", "0")["released_blocks"] == 33 and pool("show")["claims"] == []
    pool("claim", "2", "0:2M", "--shared")
    assert pool("claim", "3", "0:2M", "--shared")["claims"][0] == {
        "offset": 0,
        "length": 2 << 20,
        "heads": ["2", "3"],
        "shared": True,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("claim", "node9", "0:2M"), "has no head 'node9'; it has node1, node2, 2, 3"),
        (("claim", "4", "0:2M"), "has no head 4"),
        (("claim", "0", "1M:2M"), "does not begin and end at a multiple"),
        (("claim", "0", "0:0"), "does not begin and end at a multiple"),
        (("claim", "0", "510M:4M"), "it has blocks 0 to 255"),
    ],
)
def test_refusals(pool, arguments, message):
    assert message in pool(*arguments) and pool("show")["claims"] == []


def test_audit_and_repair(pool):
    pool("claim", "node1", "0:8M")
    held = json.dumps({"node1": [[0, 4 << 20]], "node2": [[4 << 20, 2 << 20], [16 << 20, 2 << 20]]})
    found = pool("audit", stdin=held)
    assert found["left"] == found["findings"] and {row["kind"] for row in found["findings"]} == {"stale", "conflict", "unclaimed"}
    assert {"kind": "conflict", "head": "node2", "offset": 4 << 20, "length": 2 << 20, "others": ["node1"]} in found["findings"]
    assert pool("audit", "--repair", stdin=held)["left"] == []
    assert pool("audit", stdin=held)["findings"] == []


@pytest.mark.parametrize(
    "text", ["", "[]", "5", '{"0": 1}', '{"0": [[0]]}', '{"0": [["a", 1]]}', '{"0": [[true, 1]]}', "[" * 100000]
)
def test_hostile_answers_about_heads(pool, text):
    assert "is not what heads hold" in pool("audit", stdin=text)


def test_tables_are_for_people(pool, tmp_path):
    pool("claim", "node1", "0:8M")
    lines = []
    assert main(["mhsld", "show", str(tmp_path / "s")], lines.append) == 0
    assert (
        "heads: node1,node2,2,3" in lines[0] and "claims:\nOFFSET  LENGTH  HEADS  SHARED\n0       8M      node1  no" in lines[0]
    )
