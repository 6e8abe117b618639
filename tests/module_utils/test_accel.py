# SPDX-License-Identifier: GPL-3.0-or-later
"""KVM is believed when a kernel ran under it; the emulators of these tests are shell scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.cxl_lab import accel as module
from ansible.module_utils.cxl_lab.accel import Accel, as_dict, choose_accel, device_problem, prove_kvm
from ansible.module_utils.cxl_lab.errors import LabError

PROOF = "[    0.9] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"


@pytest.fixture
def emulator(tmp_path):
    """Writes an emulator that counts its runs; returns its path."""

    def write(script: str) -> str:
        file = tmp_path / "qemu"
        file.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/runs\n{script}\n')
        file.chmod(0o755)
        return str(file)

    return write


@pytest.fixture
def runs(tmp_path):
    """The command lines of the emulator so far."""
    return lambda: (tmp_path / "runs").read_text().splitlines() if (tmp_path / "runs").exists() else []


@pytest.fixture
def kernel(tmp_path):
    (tmp_path / "vmlinuz").touch()
    return str(tmp_path / "vmlinuz")


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A machine with /dev/kvm and without a verdict."""
    monkeypatch.setattr(module, "_VERDICT", tmp_path / "run" / "accel.json")
    monkeypatch.setattr(module, "device_problem", lambda: "")
    return monkeypatch


def test_a_kernel_that_misses_its_root_is_the_proof(emulator, kernel, runs):
    assert prove_kvm(emulator(f"echo 'Linux version 6.12'; echo '{PROOF}'; exec sleep 600"), kernel) == ""
    (command,) = runs()
    assert "-accel kvm" in command and f"-kernel {kernel}" in command and "-display none" in command


@pytest.mark.parametrize("script", [f"echo '{PROOF}'", "echo 'KVM internal error. Suberror: 1' >&2"])
def test_a_clear_word_ends_the_wait(emulator, kernel, script):
    """With ten minutes of patience this test would not end."""
    assert ("internal error" in script) == bool(
        prove_kvm(emulator(f"{script}; exec sleep 6000"), kernel, silence=600, timeout=600)
    )


def test_an_emulator_that_ends_with_the_proof(emulator, kernel):
    assert prove_kvm(emulator(f"echo '{PROOF}'"), kernel) == ""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo 'qemu: could not access KVM kernel module' >&2; exit 1", "qemu: could not access KVM kernel module"),
        ("echo; echo 'KVM internal error. Suberror: 1' >&2; exec sleep 600", "KVM internal error. Suberror: 1"),
        ("echo 'Kernel panic - not syncing: No working init' ; exit 0", "silent for 0 s"),
        ("exit 1", "silent for 0 s"),
        ("echo 'qemu: terminating on signal 15' >&2", "silent for 0 s"),
        ("printf '%0500d' 1 >&2", "0" * 160 + ")"),
        ("printf '\\377\\376' >&2; exit 1", "\N{REPLACEMENT CHARACTER}" * 2),
    ],
    ids=["no module", "internal error", "another panic", "no word", "ended from outside", "long words", "no text"],
)
def test_what_is_no_proof(emulator, kernel, script, problem):
    found = prove_kvm(emulator(script), kernel)
    assert found.startswith("a guest kernel did not start (") and problem in found


def test_a_kernel_that_never_speaks_is_not_waited_for(emulator, kernel):
    assert prove_kvm(emulator("exec sleep 600"), kernel, silence=0.2, timeout=600).startswith(
        "a guest kernel did not start (silent for "
    )


def test_a_kernel_that_speaks_without_end_is_stopped(emulator, kernel):
    found = prove_kvm(emulator("while :; do echo booting; sleep 0.05; done"), kernel, silence=0.2, timeout=0.5)
    assert found.startswith("a guest kernel did not start (")


def test_no_guest_is_left_behind(emulator, kernel, tmp_path):
    prove_kvm(emulator(f"echo $$ > {tmp_path}/pid; exec sleep 600"), kernel, silence=0.3)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_an_emulator_that_cannot_run(tmp_path, kernel):
    (tmp_path / "broken").write_text("no program")
    assert prove_kvm(str(tmp_path / "broken"), kernel) != "" and prove_kvm(str(tmp_path / "none"), kernel) != ""


def test_reading_does_not_disturb_the_writer():
    """Reader and writer have one file offset: who rewinds it to read lets the guest write over its own words."""
    lines = 20000
    with tempfile.TemporaryFile() as said:
        script = f"import sys\nfor n in range({lines}): sys.stdout.write(f'{{n}}\\n'); sys.stdout.flush()"
        with subprocess.Popen([sys.executable, "-c", script], stdout=said) as writer:
            while writer.poll() is None:
                module._content(said)
        assert module._content(said).splitlines() == [str(number) for number in range(lines)]


def test_the_device(tmp_path, monkeypatch):
    assert device_problem(tmp_path / "kvm") == f"{tmp_path}/kvm does not exist"
    (tmp_path / "kvm").touch()
    assert device_problem(tmp_path / "kvm") == ""
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert device_problem(tmp_path / "kvm") == f"no permission for {tmp_path}/kvm"


def test_emulation_on_request_looks_at_nothing(emulator, kernel, runs):
    assert choose_accel("tcg", emulator("exit 1"), kernel) == Accel("tcg", "asked for")
    assert runs() == []


def test_kvm_that_works(emulator, kernel):
    path = emulator(f"echo '{PROOF}'")
    for wanted in ("auto", "kvm"):
        assert choose_accel(wanted, path, kernel) == Accel("kvm", "a guest kernel ran under KVM")


def test_kvm_that_does_not_work(emulator, kernel):
    path = emulator("echo 'no luck' >&2")
    assert choose_accel("auto", path, kernel) == Accel("tcg", "KVM does not work here: a guest kernel did not start (no luck)")
    with pytest.raises(LabError, match=r'^cxl_hypervisor_accel: KVM does not work here: .*no luck\); use "auto" or "tcg"$'):
        choose_accel("kvm", path, kernel)


def test_no_device_is_no_guest(emulator, kernel, runs, machine):
    machine.setattr(module, "device_problem", lambda: "/dev/kvm does not exist")
    assert choose_accel("auto", emulator("exit 1"), kernel) == Accel("tcg", "KVM does not work here: /dev/kvm does not exist")
    with pytest.raises(LabError, match="/dev/kvm does not exist"):
        choose_accel("kvm", emulator("exit 1"), kernel)
    assert runs() == [] and not module._VERDICT.exists()


@pytest.mark.parametrize("missing", ["emulator", "kernel"])
def test_before_there_is_a_guest_nothing_is_proved_and_nothing_remembered(emulator, kernel, tmp_path, missing):
    paths = {"emulator": emulator(f"echo '{PROOF}'"), "kernel": kernel, missing: str(tmp_path / "none")}
    assert choose_accel("auto", paths["emulator"], paths["kernel"]).reason.endswith(
        "not proved yet, emulator or guest kernel is not there"
    )
    assert not module._VERDICT.exists()


def test_the_verdict_is_kept_for_this_boot_emulator_and_kernel(emulator, kernel, runs, tmp_path):
    path = emulator("echo 'no luck' >&2")
    first = choose_accel("auto", path, kernel)
    assert choose_accel("auto", path, kernel) == first and len(runs()) == 1
    (tmp_path / "other").touch()
    choose_accel("auto", path, str(tmp_path / "other"))
    assert len(runs()) == 2
    verdict = json.loads(module._VERDICT.read_text())
    verdict["key"]["boot"] = "another boot"
    module._VERDICT.write_text(json.dumps(verdict))
    choose_accel("auto", path, str(tmp_path / "other"))
    assert len(runs()) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"key": 1}', '{"problem": ""}'])
def test_a_damaged_verdict_is_none(emulator, kernel, runs, content):
    module._VERDICT.parent.mkdir()
    module._VERDICT.write_text(content)
    assert choose_accel("auto", emulator(f"echo '{PROOF}'"), kernel).accel == "kvm" and len(runs()) == 1


def test_as_dict():
    assert as_dict(Accel("tcg", "asked for")) == {"accel": "tcg", "reason": "asked for"}
