# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory "eight_node" on eight real virtual machines, one after the other in the order of this file."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scenario import VmLab, changed

LAB = VmLab("molecule_eight_node", inventory="eight_node")
HOSTS = [f"node{number}" for number in range(1, 9)]


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    LAB.playbook("playbooks/down.yml")


def test_the_lab_comes_up_and_delivers_every_byte() -> None:
    code, output = LAB.playbook("site.yml")
    assert code == 0, output
    assert "are right" in output


def test_the_second_run_changes_nothing() -> None:
    code, output = LAB.playbook("site.yml")
    assert (code, changed(output)) == (0, 0)


def test_everybody_reaches_everybody_on_the_lab_network() -> None:
    for host in HOSTS:
        for other in HOSTS:
            LAB.on(host, "ping", "-c", "1", "-W", "20", other)


def test_every_host_sees_the_same_memory_and_the_same_hosts() -> None:
    for host in HOSTS:
        (memdev,) = json.loads(LAB.on(host, "cxl", "list", "-M"))
        assert memdev["serial"] == 0xC0DE0001
        rows = json.loads(LAB.on(host, "cxl-datapath", "cbd", "host", "list", "pool0", "--json"))
        assert sorted(row["name"] for row in rows) == HOSTS


def test_down_leaves_nothing() -> None:
    assert LAB.playbook("playbooks/down.yml")[0] == 0
    assert LAB.remains() == []
