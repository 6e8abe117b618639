# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_nbd_device as Ansible runs it."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab import nbd_device
from ansible.module_utils.cxl_lab.nbd_device import Attachment
from ansible.modules import cxl_nbd_device
from fakes import FakeRunner, run_module


@pytest.fixture
def module(monkeypatch, capsys):
    """The module on a host whose only device comes and goes; ``module.state`` is what is attached."""
    runner = FakeRunner({})

    def attach(runner, want, record):
        run.state = Attachment(want.host, want.port, "/dev/nbd0")

    def detach(runner, have, record):
        run.state = None

    def run(*, check=False, **args):
        return run_module(cxl_nbd_device, monkeypatch, capsys, check=check, name="peer", **args)

    run.state = None
    monkeypatch.setattr(cxl_nbd_device, "HostRunner", lambda: runner)
    monkeypatch.setattr(nbd_device, "observe", lambda record: run.state)
    monkeypatch.setattr(nbd_device, "attach", attach)
    monkeypatch.setattr(nbd_device, "detach", detach)
    return run


def test_attach_then_nothing_then_give_back(module):
    planned = module(check=True, host="node1")
    assert planned["changed"] and planned["nbd_device"] is None and module.state is None
    made = module(host="node1")
    assert made["changed"] and made["nbd_device"] == {"name": "peer", "device": "/dev/nbd0", "host": "node1", "port": 10809}
    assert made["diff"]["before"] == {"nbd_device": None}
    assert module(host="node1")["changed"] is False
    assert module(check=True, state="absent")["steps"] == ["give /dev/nbd0 back"] and module.state
    assert module(state="absent")["nbd_device"] is None
    assert module(state="absent")["changed"] is False


def test_another_server_takes_the_place_of_the_first(module):
    module(host="node1")
    moved = module(host="node2", port=10810)
    assert moved["steps"] == ["give /dev/nbd0 back", "attach a device to node2:10810"]
    assert moved["nbd_device"]["host"] == "node2"


def test_present_needs_a_host(module):
    assert "host" in module()["msg"]
    assert module(host="-d")["msg"].startswith("NBD server: '-d' is no host")
