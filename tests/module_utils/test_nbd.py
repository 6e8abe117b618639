# SPDX-License-Identifier: GPL-3.0-or-later
"""Ranges of a device over NBD, with a real server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import nbd
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.runner import HostRunner
from fakes import FakeRunner
from nbd_server import serve


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("nbd+unix:///?socket=/run/cxl-datapath/cbd0.sock", "/run/cxl-datapath/cbd0.sock"),
        ("nbd+unix:///?socket=/run/a%20b/c-1~.sock", "/run/a b/c-1~.sock"),
    ],
)
def test_the_socket_of_a_uri(uri, path):
    assert nbd.is_uri(uri) and nbd.socket_path(uri) == Path(path)


@pytest.mark.parametrize(
    "uri",
    [
        "nbd://example.com",
        "nbd+unix:///?socket=relative",
        "nbd+unix:///?socket=/run/x offset=5",
        "nbd+unix:///?socket=/run/x&tls=1",
        "nbd+unix:///export?socket=/run/x",
        "nbd+unix:///?socket=/run/x\n",
        "/dev/cbd0",
        "",
    ],
)
def test_a_uri_without_a_socket_of_ours(uri):
    with pytest.raises(LabError, match="names no unix socket; write nbd"):
        nbd.socket_path(uri)
    assert nbd.is_uri(uri) == uri.startswith("nbd")


def test_a_file_goes_to_the_beginning_of_the_device_and_a_range_comes_back(tmp_path):
    disk, source, copy = (tmp_path / name for name in ("disk", "source", "copy"))
    content = os.urandom(3 << 20)
    source.write_bytes(content)
    disk.write_bytes(b"x" * (8 << 20))
    uri = f"nbd+unix:///?socket={tmp_path}/socket"
    with serve(disk, tmp_path / "socket"):
        assert nbd.read_size(HostRunner(), uri) == 8 << 20
        nbd.write(HostRunner(), source, uri)
        nbd.read(HostRunner(), uri, 2 << 20, copy)
    assert copy.read_bytes() == content[: 2 << 20]
    assert disk.read_bytes() == content + b"x" * (5 << 20)


def test_a_device_that_is_not_there(tmp_path):
    uri = f"nbd+unix:///?socket={tmp_path}/socket"
    with pytest.raises(LabError, match="see that the blkdev runs") as caught:
        nbd.read_size(HostRunner(), uri)
    assert caught.value.subject == uri and caught.value.cmd[0] == "nbdinfo"
    with pytest.raises(LabError, match="No such file"):
        nbd.read(HostRunner(), uri, 4096, tmp_path / "copy")


@pytest.mark.parametrize("answer", ["", "many", "-1", "\u0661"])
def test_a_size_that_is_none(answer):
    with pytest.raises(LabError, match="has no size"):
        nbd.read_size(FakeRunner({"nbdinfo": answer}), "nbd+unix:///?socket=/x")
