# SPDX-License-Identifier: GPL-3.0-or-later
"""cxl_qemu as Ansible runs it, on machines with other distributions."""

from __future__ import annotations

import pytest
from ansible.module_utils.cxl_lab import debian_root
from ansible.module_utils.cxl_lab.errors import LabError
from ansible.module_utils.cxl_lab.qemu import qemu_recipe
from ansible.module_utils.cxl_lab.runner import Result
from ansible.modules import cxl_qemu
from fakes import FakeRunner, run_module

MIRROR = "http://deb.debian.org/debian"
POLICY = "qemu-system-x86:\n  Installed: (none)\n  Candidate: {}\n  Version table:\n"


def missing() -> str:
    raise LabError("/usr/bin/qemu-system-x86_64", "command is not installed on this host")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose distribution offers QEMU 10.0 and has none installed."""
    runner = FakeRunner(
        {
            "/usr/bin/qemu-system-x86_64": missing,
            "apt-cache policy": POLICY.format("1:10.0.2+ds-1~bpo12+1"),
            "mmdebstrap": "",
            str(tmp_path): "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\n",
        }
    )
    monkeypatch.setattr(cxl_qemu, "HostRunner", lambda: runner)
    monkeypatch.setattr(debian_root, "HostRunner", lambda: runner)
    return runner


@pytest.fixture
def qemu(machine, monkeypatch, capsys, tmp_path):
    return lambda check=False, **args: run_module(
        cxl_qemu, monkeypatch, capsys, check=check, **{"cache_dir": str(tmp_path), **args}
    )


def test_an_old_distribution_gets_a_tree_once(qemu, machine, tmp_path):
    path = str(qemu_recipe(MIRROR).folder(tmp_path) / "bin" / "qemu-system-x86_64")
    wanted = {"path": path, "source": "trixie", "version": "11.1", "reason": "the distribution's QEMU (10.0) is older than 11.1"}
    assert qemu() == qemu() | {"changed": True, "qemu": wanted}
    again = qemu()
    assert again["changed"] is False and again["qemu"] == wanted
    assert sum(line.startswith("mmdebstrap") for line in machine.ran) == 1


def test_check_mode_builds_nothing(qemu, machine, tmp_path):
    machine.answers[str(tmp_path)] = missing
    planned = qemu(check=True)
    assert planned["changed"] is True and planned["qemu"]["version"] == "" and list(tmp_path.iterdir()) == []
    assert not any(line.startswith("mmdebstrap") for line in machine.ran)


@pytest.mark.parametrize("source", ["auto", "distro"])
def test_a_new_distribution_needs_no_tree(qemu, machine, tmp_path, source):
    machine.answers["/usr/bin/qemu-system-x86_64"] = "QEMU emulator version 11.1.0 (Debian)\n"
    result = qemu(source=source)
    assert (
        result["changed"] is False
        and result["qemu"]["path"] == "/usr/bin/qemu-system-x86_64"
        and result["qemu"]["version"] == "11.1"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_apt_would_install_counts(qemu, machine):
    machine.answers["apt-cache policy"] = POLICY.format("1:12.0+ds-1")
    assert qemu()["qemu"] == {
        "path": "/usr/bin/qemu-system-x86_64",
        "source": "distro",
        "version": "",
        "reason": "QEMU 12.0 maps regions directly",
    }


@pytest.mark.parametrize("policy", ["", "N: Unable to locate package\n", POLICY.format("(none)")])
def test_no_candidate(qemu, machine, policy):
    machine.answers["apt-cache policy"] = policy
    assert qemu()["qemu"]["reason"] == "the distribution's QEMU (none) is older than 11.1"
    result = qemu(source="distro")
    assert result["failed"] is True
    assert result["msg"].startswith("cxl_hypervisor_qemu_source: the distribution offers QEMU none, too old for CXL; use ")


def test_another_mirror_is_another_tree(qemu):
    assert qemu()["qemu"]["path"] != qemu(mirror="http://example.org/debian")["qemu"]["path"]


def test_a_mirror_that_is_away(qemu, machine, tmp_path):
    machine.answers["mmdebstrap"] = Result(
        25, "", "E: Failed to fetch http://deb.debian.org/debian  Could not connect\nE: mmdebstrap failed to run\n"
    )
    result = qemu()
    assert result["failed"] is True and result["rc"] == 25 and result["cmd"][0] == "mmdebstrap"
    assert (
        result["msg"].startswith(f"qemu tree of trixie from {MIRROR}: E: Failed to fetch") and "check the mirror" in result["msg"]
    )
    assert not qemu_recipe(MIRROR).folder(tmp_path).exists()


def test_a_tree_that_does_not_run(qemu, machine, tmp_path):
    machine.answers[str(tmp_path)] = Result(127, "", "not found\n")
    result = qemu()
    assert result["failed"] is True and "does not run; remove " in result["msg"]
