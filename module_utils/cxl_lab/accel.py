# SPDX-License-Identifier: GPL-3.0-or-later
"""KVM or emulation? The file /dev/kvm proves nothing: on some machines a guest is created and its kernel never starts.

The proof is a guest kernel that comes so far as to miss its root file system. The verdict holds until the machine boots again.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from .errors import LabError
from .progress import progress

_VERDICT = Path("/run/cxl-lab/accel.json")
_PROOF = "Kernel panic - not syncing: VFS"


@dataclass(frozen=True)
class Accel:
    """ "kvm" or "tcg", and why."""

    accel: str
    reason: str


def choose_accel(wanted: str, emulator: str, kernel: str) -> Accel:
    """What to run guests with.

    :param wanted: "auto", "kvm" or "tcg".
    :raises LabError: when "kvm" is asked for and does not work.
    """
    if wanted == "tcg":
        return Accel("tcg", "asked for")
    problem = _kvm_problem(emulator, kernel)
    if not problem:
        return Accel("kvm", "a guest kernel ran under KVM")
    if wanted == "kvm":
        raise LabError("cxl_hypervisor_accel", f"KVM does not work here: {problem}", 'use "auto" or "tcg"')
    return Accel("tcg", f"KVM does not work here: {problem}")


def device_problem(device: Path = Path("/dev/kvm")) -> str:
    """What a look at the device tells; "" when a proof is worth trying."""
    if not device.exists():
        return f"{device} does not exist"
    return "" if os.access(device, os.R_OK | os.W_OK) else f"no permission for {device}"


def _kvm_problem(emulator: str, kernel: str) -> str:
    problem = device_problem()
    if problem:
        return problem
    if not (Path(emulator).exists() and Path(kernel).exists()):
        return "not proved yet, emulator or guest kernel is not there"
    key = {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "emulator": emulator, "kernel": kernel}
    cached = _read_verdict()
    if cached.get("key") == key:
        return str(cached.get("problem"))
    progress("proving KVM with a guest kernel")
    problem = prove_kvm(emulator, kernel)
    _VERDICT.parent.mkdir(parents=True, exist_ok=True)
    _VERDICT.write_text(json.dumps({"key": key, "problem": problem}))
    return problem


def _read_verdict() -> dict[str, object]:
    try:
        verdict = json.loads(_VERDICT.read_text())
    except (OSError, ValueError):
        return {}
    return verdict if isinstance(verdict, dict) else {}


def prove_kvm(emulator: str, kernel: str, silence: float = 5.0, timeout: float = 20.0) -> str:
    """Boots the kernel under KVM without a root file system; "" when it came that far, else what QEMU or the silence says.

    :param silence: seconds without a first word from the kernel after which it will never speak.
    """
    command = [emulator, "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none"]
    command += ["-no-reboot", "-serial", "stdio", "-kernel", kernel, "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        try:
            guest = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained)
        except OSError as error:
            return str(error)
        begin = time.monotonic()
        try:
            while guest.poll() is None and time.monotonic() - begin < timeout:
                time.sleep(0.1)
                silent = time.monotonic() - begin > silence and not _content(said)
                if silent or _PROOF in _content(said) or "internal error" in _content(complained):
                    break
        finally:
            guest.kill()
            guest.wait()
        if _PROOF in _content(said):
            return ""
        words = [line for line in _content(complained).splitlines() if line.strip() and "terminating on signal" not in line]
        return f"a guest kernel did not start ({words[0][:160] if words else f'silent for {time.monotonic() - begin:.0f} s'})"


def _content(file: IO[bytes]) -> str:
    # Not by seek and read: the guest writes at the same file offset.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def as_dict(accel: Accel) -> dict[str, str]:
    return dict(asdict(accel))
