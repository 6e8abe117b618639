# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_accel_info as Ansible runs it."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab import accel
from ansible.modules import cxl_accel_info
from fakes import run_module


@pytest.fixture
def info(monkeypatch, capsys, tmp_path):
    """A machine with /dev/kvm whose emulator says what the test wants."""
    monkeypatch.setattr(accel, "_VERDICT", tmp_path / "accel.json")
    monkeypatch.setattr(accel, "device_problem", lambda: "")
    (tmp_path / "vmlinuz").touch()

    def run(script="exit 1", check=False, **args):
        (tmp_path / "qemu").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "qemu").chmod(0o755)
        paths = {"emulator": str(tmp_path / "qemu"), "kernel": str(tmp_path / "vmlinuz")}
        return run_module(cxl_accel_info, monkeypatch, capsys, check=check, **{**paths, **args})

    return run


@pytest.mark.parametrize("check", [False, True])
def test_kvm_is_taken_when_it_works(info, check):
    result = info("echo 'Kernel panic - not syncing: VFS: Unable to mount root fs'", check=check)
    assert (result["changed"], result["accel"], result["reason"]) == (False, "kvm", "a guest kernel ran under KVM")


def test_emulation_is_taken_when_it_does_not(info):
    result = info("echo 'KVM internal error' >&2")
    assert (
        result["accel"] == "tcg"
        and result["reason"] == "KVM does not work here: a guest kernel did not start (KVM internal error)"
    )


def test_kvm_on_request_fails_with_the_reason(info):
    result = info("echo 'KVM internal error' >&2", accel="kvm")
    assert result["failed"] is True
    assert result["msg"].startswith("cxl_hypervisor_accel: KVM does not work here: ") and result["msg"].endswith(
        '; use "auto" or "tcg"'
    )


def test_emulation_on_request(info):
    assert info(accel="tcg")["reason"] == "asked for"


def test_there_is_no_other_way(info):
    assert "value of accel must be one of: auto, kvm, tcg" in info(accel="xen")["msg"]
