# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_namespace and cxl_namespace_info as Ansible runs them, on a host whose commands answer from recordings."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_namespace, cxl_namespace_info
from fakes import FakeRunner, fixture, run_module


class Host(FakeRunner):
    """A host with a region; ``spaces`` are the namespaces on it."""

    def __init__(self, *spaces: dict, region: bool = True) -> None:
        self.spaces = list(spaces)
        super().__init__(
            {
                "ndctl list": lambda: json.dumps(self.tree()) if region else "",
                "ndctl create-namespace": lambda: self.becomes([OURS]),
                "ndctl enable-namespace": lambda: self.becomes([OURS]),
                "ndctl disable-namespace": "",
                "ndctl destroy-namespace": lambda: self.becomes([]),
            }
        )

    def tree(self):
        buses = fixture("ndctl_list")
        buses[0]["regions"][0]["namespaces"] = self.spaces
        return buses

    def becomes(self, spaces) -> str:
        self.spaces = spaces
        return ""


OURS = fixture("ndctl_list")[0]["regions"][0]["namespaces"][0]
ARGS = {"serial": "0xc0de0001", "name": "cbd0", "wait": False}


@pytest.fixture
def call(monkeypatch, capsys):
    def run(module, host, users=(), **args):
        monkeypatch.setattr(module, "HostRunner", lambda: host)
        if module is cxl_namespace:
            monkeypatch.setattr(module, "users_of", lambda device: list(users))
        return run_module(module, monkeypatch, capsys, **args)

    return run


def test_create_then_nothing(call):
    host = Host()
    result = call(cxl_namespace, host, **ARGS)
    assert result["changed"] and result["namespace"]["device"] == "/dev/dax0.0"
    assert len(host.changing()) == 1 and "--map=mem" in host.changing()[0]
    assert call(cxl_namespace, host, **ARGS)["changed"] is False


def test_a_label_that_survived_the_reboot_is_no_change(call):
    result = call(cxl_namespace, Host(OURS), **ARGS)
    assert result["changed"] is False and result["steps"] == []


def test_enable_then_look_again(call):
    host = Host({**OURS, "state": "disabled", "mode": "raw"})
    assert call(cxl_namespace, host, **ARGS)["steps"] == ["enable namespace0.0"]
    assert host.changing() == ["ndctl enable-namespace namespace0.0"]


def test_check_mode_without_and_with_a_region(call):
    for host in (Host(region=False), Host()):
        result = call(cxl_namespace, host, check=True, **ARGS)
        assert result["changed"] and result["namespace"]["name"] == "cbd0"
        assert host.changing() == []


def test_no_region(call):
    result = call(cxl_namespace, Host(region=False), **ARGS)
    assert result["failed"] and "create it first (cxl_region)" in result["msg"]


def test_force_is_refused_under_users(call):
    host = Host({**OURS, "map": "dev"})
    result = call(cxl_namespace, host, users=["process 812 (python3)"], force=True, **ARGS)
    assert result["failed"] and "in use: process 812" in result["msg"] and host.changing() == []
    assert call(cxl_namespace, host, force=True, **ARGS)["changed"]


def test_absent_refused_in_use_then_done(call):
    host = Host(OURS)
    result = call(cxl_namespace, host, users=["mounted at /mnt"], state="absent", **ARGS)
    assert result["failed"] and host.changing() == []
    assert call(cxl_namespace, host, state="absent", **ARGS)["namespace"] is None
    assert host.changing() == ["ndctl disable-namespace namespace0.0", "ndctl destroy-namespace namespace0.0"]
    assert call(cxl_namespace, host, state="absent", **ARGS)["changed"] is False


def test_failure_of_ndctl_is_told(call):
    host = Host()
    host.answers["ndctl create-namespace"] = Result(1, "", "failed to create namespace: Resource temporarily unavailable\n")
    result = call(cxl_namespace, host, **ARGS)
    assert result["failed"] and "Resource temporarily unavailable" in result["msg"] and result["cmd"][0] == "ndctl"


def test_a_namespace_that_does_not_come_up(call):
    host = Host()
    host.answers["ndctl create-namespace"] = ""
    assert "not in service" in call(cxl_namespace, host, **ARGS)["msg"]


def test_info(call):
    result = call(cxl_namespace_info, Host(OURS), serial="0xc0de0001")
    assert [(one["name"], one["serials"]) for one in result["namespaces"]] == [("cbd0", ["0xc0de0001"])]
    assert call(cxl_namespace_info, Host(OURS), serial="0x1")["namespaces"] == []


@pytest.mark.parametrize("serial", [[], ["0xc0de0001", 0xC0DE0001], ["x"]])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_namespace_is_over_memdevs_that_are_named(call, serial, state):
    """Persistent memory that is no memdev's has a region, too, over none."""
    host = Host()
    host.tree = lambda: [{"provider": "e820", "regions": [{"dev": "region7", "size": 1 << 30, "namespaces": [OURS]}]}]
    result = call(cxl_namespace, host, **{**ARGS, "serial": serial, "state": state})
    assert result["failed"] and result["msg"].startswith("serial: ") and host.ran == []
