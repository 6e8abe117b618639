# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable names and the choice of the front end. The kernel's own front ends are tried where a kernel has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxl_datapath import frontends
from cxl_datapath.errors import Code, DatapathError
from cxl_datapath.frontends import base, nbd
from cxl_datapath.frontends.names import check_free, publish, withdraw


def test_a_name_is_a_link_that_comes_and_goes(tmp_path):
    link = tmp_path / "cbd0"
    publish(link, Path("/dev/ublkb77"))
    assert link.readlink() == Path("/dev/ublkb77")
    withdraw(link, Path("/dev/ublkb78"))
    assert link.is_symlink()
    withdraw(link, Path("/dev/ublkb77"))
    assert not link.is_symlink()
    withdraw(link, Path("/dev/ublkb77"))
    assert list(tmp_path.iterdir()) == []


def test_a_link_of_a_dead_run_is_replaced(tmp_path):
    link = tmp_path / "cbd0"
    link.symlink_to("/dev/ublkb4000")
    publish(link, Path("/dev/nbd4001"))
    assert link.readlink() == Path("/dev/nbd4001")


@pytest.mark.parametrize("kind", ["file", "folder", "foreign link", "dangling foreign link"])
def test_what_is_not_ours_is_never_replaced(tmp_path, kind):
    link = tmp_path / "cbd0"
    if kind == "file":
        link.write_text("mine")
    elif kind == "folder":
        link.mkdir()
    else:
        link.symlink_to("/dev/null" if kind == "foreign link" else "/dev/sdzz")
    before = os.lstat(link)
    with pytest.raises(DatapathError) as caught:
        publish(link, Path("/dev/ublkb0"))
    assert (caught.value.code, caught.value.object) == (Code.EXISTS, str(link))
    assert os.lstat(link) == before
    assert list(tmp_path.iterdir()) == [link]


def test_a_device_node_is_never_replaced():
    with pytest.raises(DatapathError):
        check_free(Path("/dev/null"))


def test_free_nbd_devices_are_those_without_a_client(tmp_path):
    for name in ("nbd0", "nbd1", "nbd10", "nbd2", "nbdx", "sda"):
        (tmp_path / name).mkdir()
    (tmp_path / "nbd1/pid").write_text("1\n")
    assert nbd.free_devices(tmp_path) == ["nbd0", "nbd2", "nbd10"]


class Absent:
    @staticmethod
    def missing() -> str:
        return "no such kernel"


class Present:
    @staticmethod
    def missing() -> str:
        return ""


def test_auto_takes_the_first_that_works(monkeypatch):
    monkeypatch.setattr(frontends, "KINDS", {"ublk": Absent, "nbd": Present, "nbdkit": Present})
    assert frontends.choose("auto") == ("nbd", Present)
    assert frontends.choose("nbdkit") == ("nbdkit", Present)
    with pytest.raises(DatapathError) as caught:
        frontends.choose("ublk")
    assert (caught.value.code, "no such kernel" in caught.value.message) == (Code.UNSUPPORTED, True)
    monkeypatch.setattr(frontends, "KINDS", {"ublk": Absent, "nbd": Absent})
    with pytest.raises(DatapathError) as caught:
        frontends.choose("auto")
    assert "ublk: no such kernel, nbd: no such kernel" in caught.value.message


def test_a_tool_that_fails_says_why():
    assert base.run_tool("true") == ""
    assert base.run_tool("no-such-tool-anywhere") == "no-such-tool-anywhere is not installed"
    assert "no-such-file" in base.run_tool("ls", "/no-such-file")
    assert base.missing_module("no_such_module", Path("/sys/module/no_such_module"))
