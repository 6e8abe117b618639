# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_dax and cxl_dax_info as Ansible runs them, on a host that plays daxctl."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_dax, cxl_dax_info
from fakes import FakeRunner, fixture, run_module

ARGS = {"serial": "0xc0de0002", "wait": False}


class Host(FakeRunner):
    """A host with a volatile region over mem0 and its DAX device."""

    def __init__(self, mode="system-ram", online=0, movable=True, region=True) -> None:
        self.mode, self.online, self.movable, self.busy = mode, online, movable, False
        row = {
            **fixture("cxl_list_regions")[0],
            "type": "ram",
            "mappings": [{"position": 0, "memdev": "mem0", "decoder": "decoder2.0"}],
        }
        super().__init__(
            {
                "cxl list -M": json.dumps(fixture("cxl_list_memdevs")),
                "cxl list -R": json.dumps([row] if region else []),
                "ndctl list": json.dumps(fixture("ndctl_list")),
                "daxctl list": self.listed,
                "tee /sys": "",
                "cat /sys": "offline\n",
                "daxctl reconfigure-device -m devdax": lambda: self.become("devdax"),
                "daxctl reconfigure-device -m system-ram": lambda: self.become("system-ram"),
                "daxctl offline-memory": lambda: self.set_online(0, False),
                "daxctl online-memory dax0.0": lambda: self.set_online(2, True),
                "daxctl online-memory --no-movable": lambda: self.set_online(2, False),
            }
        )

    def listed(self) -> str:
        row = {"chardev": "dax0.0", "size": 268435456, "target_node": 1, "align": 2097152, "mode": self.mode}
        if self.mode == "system-ram":
            row |= {"online_memblocks": self.online, "total_memblocks": 2, "movable": self.movable}
        return json.dumps([row])

    def become(self, mode: str) -> str:
        self.mode = mode
        return ""

    def set_online(self, blocks: int, movable: bool) -> str | Result:
        if self.busy:
            return Result(1, "", "dax0.0: failed to offline memory: Device or resource busy")
        self.online, self.movable = blocks, movable
        return ""

    def changing(self) -> list[str]:
        return [line for line in super().changing() if not line.startswith(("daxctl list", "cat"))]


@pytest.fixture
def call(monkeypatch, capsys):
    def run(module, host, users=(), **args):
        monkeypatch.setattr(module, "HostRunner", lambda: host)
        if module is cxl_dax:
            monkeypatch.setattr(module, "users_of", lambda device: list(users))
        return run_module(module, monkeypatch, capsys, **args)

    return run


def test_system_ram_then_nothing_then_devdax(call):
    host = Host(mode="devdax")
    result = call(cxl_dax, host, **ARGS, mode="system-ram")
    assert result["changed"] and result["dax"]["online"] == "online_movable" and result["dax"]["device"] == ""
    assert call(cxl_dax, host, **ARGS, mode="system-ram")["changed"] is False
    result = call(cxl_dax, host, **ARGS, mode="devdax")
    assert result["dax"]["device"] == "/dev/dax0.0"
    assert result["steps"] == ["take the memory of dax0.0 out of service", "let programs map dax0.0"]


def test_check_mode_tells_and_does_nothing(call):
    host = Host(mode="devdax")
    result = call(cxl_dax, host, **ARGS, mode="system-ram", check=True)
    assert result["changed"] and len(result["steps"]) == 3 and host.changing() == []
    result = call(cxl_dax, Host(region=False), **ARGS, mode="system-ram", check=True)
    assert result["changed"] and result["dax"] is None


def test_no_device_is_an_error_with_advice(call):
    result = call(cxl_dax, Host(region=False), **ARGS)
    assert result["failed"] and "make its region first" in result["msg"]


def test_a_device_that_is_mapped_is_left_alone(call):
    host = Host(mode="devdax")
    result = call(cxl_dax, host, **ARGS, mode="system-ram", users=["process 7 (qemu)"])
    assert "/dev/dax0.0 is in use: process 7 (qemu); stop that first" in result["msg"] and host.changing() == []


def test_memory_that_cannot_go_offline_says_what_to_do(call):
    host = Host(online=2)
    host.busy = True
    result = call(cxl_dax, host, **ARGS, mode="devdax")
    assert result["failed"] and "end what uses the memory" in result["msg"] and result["rc"] == 1


def test_shared_memory_is_refused_before_anything_is_asked(call):
    host = Host(mode="devdax")
    result = call(cxl_dax, host, **ARGS, mode="system-ram", others={"node2": [{"serial": "0xc0de0002"}]})
    assert "two kernels would own the same pages" in result["msg"] and host.ran == []


def test_persistent_memory_is_given_away_only_by_force(call):
    host = Host(mode="devdax")
    args = {"serial": "0xc0de0001", "type": "pmem", "wait": False, "mode": "system-ram"}
    assert "its data would be lost" in call(cxl_dax, host, **args)["msg"] and host.changing() == []
    assert call(cxl_dax, host, **args, force=True)["dax"]["mode"] == "system-ram"


def test_info(call):
    result = call(cxl_dax_info, Host(online=2))
    assert result["auto_online"] == "offline"
    (device,) = result["devices"]
    assert (device["name"], device["mode"], device["online"], device["blocks"]) == ("dax0.0", "system-ram", "online_movable", 2)


def test_a_device_is_over_memdevs_that_are_named(call):
    assert call(cxl_dax, Host(), **{**ARGS, "serial": []})["msg"] == (
        "serial: no memdev is named; name each memdev below the region once"
    )


@pytest.mark.parametrize("lists", ["x", 7, ["x"], [["0xc0de0002"]], None])
def test_lists_of_another_host_that_are_none(call, lists):
    result = call(cxl_dax, Host(), **ARGS, others={"node2": lists})
    assert result["failed"] and "host node2 has " in result["msg"] and "write a list of entries with serial" in result["msg"]
