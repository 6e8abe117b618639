# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_fio as Ansible runs it, with real runs against a real NBD server."""

from __future__ import annotations

import shutil

import pytest
from ansible.modules import cxl_fio
from fakes import run_module
from nbd_server import serve

LOADS = [{"name": "small", "op": "read", "block": "4K", "depth": 4}, {"name": "large", "op": "write", "block": "1M", "depth": 2}]


@pytest.fixture
def module(tmp_path, monkeypatch, capsys):
    (tmp_path / "disk").write_bytes(bytes(8 << 20))

    def run(**args):
        devices = [{"name": name, "device": f"nbd+unix:///?socket={tmp_path}/socket", "size": "8M"} for name in ("a", "b")]
        return run_module(cxl_fio, monkeypatch, capsys, **{"devices": devices, "loads": LOADS, "runs": 2, "seconds": 0.1, **args})

    return run


@pytest.mark.skipif(not shutil.which("fio"), reason="needs fio")
def test_every_load_on_every_device(module, tmp_path):
    with serve(tmp_path / "disk", tmp_path / "socket"):
        result = module()
    assert result["changed"] is True and result["facts"]["fio"]
    assert {load: {name: len(runs) for name, runs in devices.items()} for load, devices in result["samples"].items()} == {
        load["name"]: {"a": 2, "b": 2} for load in LOADS
    }


def test_check_mode_writes_nothing(module, tmp_path):
    result = module(check=True)
    assert result["changed"] is False and result["samples"] == {} and not any((tmp_path / "disk").read_bytes())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"runs": 0}, "runs: 0 is no number of runs"),
        ({"seconds": 0}, "seconds: 0 is no duration"),
        ({"devices": [{"name": "a", "device": "/etc/passwd", "size": "8M"}]}, "device: '/etc/passwd' is no block device"),
        ({"devices": [{"name": "../a", "device": "/dev/null", "size": "8M"}]}, "name of a device: '../a' is no valid name"),
    ],
)
def test_what_cannot_be_measured(module, args, message):
    result = module(**args)
    assert result["failed"] and result["msg"].startswith(message), result["msg"]
