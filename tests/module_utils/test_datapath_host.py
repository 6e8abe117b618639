# SPDX-License-Identifier: GPL-3.0-or-later
"""Command and service of a host, in folders of the test."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible.module_utils.cxl_lab.datapath_host import DatapathHost
from ansible.module_utils.cxl_lab.errors import LabError

UNIT = "[Service]\nExecStart=/opt/cxl-datapath/current/bin/cxl-datapathd\n"


@pytest.fixture
def host(tmp_path):
    for folder in ("bin", "units", "systemd", "opt/1-a/lib/python3.13/site-packages/cxl_datapath/systemd"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "opt/1-a/lib/python3.13/site-packages/cxl_datapath/systemd/cxl-datapathd.service").write_text(UNIT)
    (tmp_path / "opt/current").symlink_to("1-a")
    return DatapathHost(
        tmp_path / "opt", tmp_path / "bin/cxl-datapath", tmp_path / "units/cxl-datapathd.service", tmp_path / "systemd"
    )


def test_a_connected_host_has_its_release(host):
    assert host.ready_release() == ""
    host.connect()
    assert host.ready_release() == "1-a"
    assert f"ExecStart={host.root}/current/bin/cxl-datapathd" in host.unit.read_text()


@pytest.mark.parametrize("loss", ["command", "unit"])
def test_what_is_lost_or_changed_is_noticed_and_put_back(host, loss):
    host.connect()
    getattr(host, loss).unlink()
    getattr(host, loss).write_text("") if loss == "unit" else None
    assert host.ready_release() == ""
    host.connect()
    assert host.ready_release() == "1-a"


def test_without_systemd_there_is_no_unit(host):
    host.systemd_folder.rmdir()
    host.connect()
    assert not host.systemd
    assert host.ready_release() == "1-a"
    assert not host.unit.exists()


def test_a_private_release_needs_neither_command_nor_service(host):
    private = replace(host, private=True)
    assert private.ready_release() == "1-a"
    private.connect()
    assert not host.command.is_symlink() and not host.unit.exists() and host.ready_release() == ""


def test_a_foreign_command_is_left_alone(host):
    host.command.write_text("mine")
    with pytest.raises(LabError, match="no link of ours"):
        host.connect()
    assert host.command.read_text() == "mine"


def test_without_a_release_nothing_is_ready(host):
    host.connect()
    (host.root / "current").unlink()
    assert host.ready_release() == ""
