# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_preflight_local_info as Ansible runs it."""

from __future__ import annotations

from functools import partial

import pytest
from ansible.modules import cxl_preflight_local_info
from fakes import run_module

HOSTS = [{"name": f"node{n}", "runtime_dir": f"/run/x/node{n}", "state_dir": f"/run/x/node{n}/state"} for n in (1, 2)]


@pytest.fixture
def preflight(monkeypatch, capsys):
    return partial(run_module, cxl_preflight_local_info, monkeypatch, capsys)


def test_a_summary_when_all_is_well(preflight, tmp_path):
    result = preflight(lab="x", hosts=HOSTS, files=[{"path": str(tmp_path / "pool0"), "size": "1M"}], root=True)
    assert result["changed"] is False and result["summary"] == {
        "hosts": "node1 (/run/x/node1), node2 (/run/x/node2)",
        "files": f"{tmp_path}/pool0 (1M)",
    }
    assert list(tmp_path.iterdir()) == []


def test_every_problem_in_one_message(preflight, tmp_path):
    (tmp_path / "pool0").mkdir()
    result = preflight(lab="x", hosts=HOSTS[:1] * 2, files=[{"path": str(tmp_path / "pool0"), "size": "1M"}], root=False)
    head, *lines = result["msg"].split("\n  - ")
    assert result["failed"] is True and head == "lab x: 5 problem(s) before the start" and lines == result["observed"]


@pytest.mark.parametrize("lab", ["../x", "a.b", ""])
def test_a_bad_lab_name_carries_its_variable(preflight, lab):
    assert preflight(lab=lab, hosts=HOSTS, root=True)["msg"].startswith(f"cxl_local_lab: {lab!r} is no valid name")
