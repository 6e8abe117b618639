# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for user-space LUNs."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab import cxlflash
from ansible.module_utils.cxl_lab.errors import LabError

DISK = {"name": "flash0", "path": "/dev/sdb", "mode": "superpipe", "read_only": False, "wwid": "3" * 32}
LIMITS = {"client_contexts": 64, "client_size": 0, "users": []}


def want(**item):
    return cxlflash.parse({"name": "flash0", "path": "/dev/sdb", "state": "present", **item})


def calls(wanted, *rows):
    return [(call.method, call.params) for call in cxlflash.plan(wanted, {"luns": list(rows)}, False)]


def test_a_lun_that_is_not_there_is_made():
    ((method, params),) = calls(want(client_size="10G", users=["postgres"]))
    assert method == "lun.create"
    assert params == {
        "name": "flash0",
        "path": "/dev/sdb",
        "mode": "superpipe",
        "read_only": False,
        "wwid": None,
        "client_size": 10 << 30,
        "users": ["postgres"],
    }


def test_one_that_is_as_wanted_stays():
    assert calls(want(), {**DISK, **LIMITS}) == []
    assert calls(want(wwid="3" * 32, mode="superpipe", client_size="0", client_contexts=64), {**DISK, **LIMITS}) == []


def test_what_is_not_asked_for_stays_as_it_is():
    assert calls(want(), {**DISK, "mode": "legacy", "client_contexts": 3, "client_size": 5, "users": ["a"]}) == []


def test_only_the_difference_is_set():
    changed = calls(want(mode="legacy", client_contexts=3, users=[]), {**DISK, **LIMITS})
    assert changed == [("lun.set", {"lun": "flash0", "client_contexts": 3, "mode": "legacy"})]


def test_removal():
    gone = cxlflash.parse({"name": "flash0", "state": "absent"})
    assert calls(gone, DISK) == [("lun.remove", {"lun": "flash0"})]
    assert calls(gone) == []
    assert gone.wanted is None


@pytest.mark.parametrize(
    ("item", "key"), [({"path": "/dev/sdc"}, "path"), ({"wwid": "4" * 32}, "wwid"), ({"read_only": True}, "read_only")]
)
def test_what_a_lun_is_made_of_does_not_change(item, key):
    with pytest.raises(LabError, match=key):
        calls(want(**item), {**DISK, **LIMITS})


@pytest.mark.parametrize(
    "item",
    [
        {"name": "Flash 0"},
        {"path": "sdb"},
        {"wwid": "xyz"},
        {"wwid": "A" * 32},
        {"client_contexts": 0},
        {"client_contexts": 513},
        {"client_size": "much"},
        {"client_size": "-1"},
    ],
)
def test_what_cannot_be(item):
    with pytest.raises(LabError):
        want(**item)


@pytest.mark.parametrize("other", [{"path": "/dev/sdc"}, {"name": "flash1"}])
def test_each_at_most_once(other):
    with pytest.raises(LabError, match="twice"):
        cxlflash.check([want(), want(**other)])


def test_a_wwid_is_one_lun():
    with pytest.raises(LabError, match="twice"):
        cxlflash.check([want(wwid="4" * 32), want(name="flash1", path="/dev/sdc", wwid="4" * 32)])


def test_a_pool_is_a_medium():
    ((_, params),) = calls(want(path="kmem_blk:pool0"))
    assert params["path"] == "kmem_blk:pool0"
    with pytest.raises(LabError):
        want(path="kmem_blk:../pool0")
